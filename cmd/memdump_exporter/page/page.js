setInterval(function () {
  if (document.hidden || document.querySelector("details[open]")) return;
  fetch(location.pathname).then(function (r) { return r.text(); }).then(function (text) {
    var fresh = new DOMParser().parseFromString(text, "text/html").querySelector("main");
    if (fresh) document.querySelector("main").replaceWith(fresh);
  }).catch(function () {});
}, 15000);
