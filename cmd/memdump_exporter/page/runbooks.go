package page

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"net/http"
	"path"
	"strings"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/parser"
	"github.com/yuin/goldmark/renderer/html"
	"github.com/yuin/goldmark/text"
)

//go:embed runbooks.html
var runbooksHTML string

// Runbooks returns a handler that serves the runbooks, which are Markdown from the folder docs.
// Each heading has the anchor that it has on GitHub.
func Runbooks(name, markdown string) (http.Handler, error) {
	converter := goldmark.New(
		goldmark.WithExtensions(extension.Table),
		goldmark.WithParserOptions(parser.WithAutoHeadingID()),
		goldmark.WithRendererOptions(html.WithHardWraps()),
	)
	source := []byte(markdown)
	document := converter.Parser().Parse(text.NewReader(source))
	replaceFileLinks(document, source)
	var converted, page bytes.Buffer
	if err := converter.Renderer().Render(&converted, source, document); err != nil {
		return nil, fmt.Errorf("runbooks: %w", err)
	}
	t, err := template.New("runbooks").Funcs(template.FuncMap{"css": func() template.CSS { return template.CSS(pageCSS) }}).Parse(runbooksHTML)
	if err != nil {
		return nil, fmt.Errorf("runbooks: %w", err)
	}
	// The converter has escaped the text; it is our own, and raw HTML in it is omitted.
	if err := t.Execute(&page, map[string]any{"Name": name, "Body": template.HTML(converted.String())}); err != nil {
		return nil, fmt.Errorf("runbooks: %w", err)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write(page.Bytes())
	}), nil
}

// replaceFileLinks replaces the links to other files of the repository, which the exporter does
// not serve, by their text and the name of the file.
func replaceFileLinks(document ast.Node, source []byte) {
	var links []ast.Node // a walk must not change what it walks through
	_ = ast.Walk(document, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if _, ok := n.(*ast.Link); ok && entering {
			links = append(links, n)
		}
		return ast.WalkContinue, nil
	})
	for _, n := range links {
		target := string(n.(*ast.Link).Destination)
		if strings.HasPrefix(target, "#") || strings.Contains(target, "://") {
			continue
		}
		parent, file := n.Parent(), path.Join("docs", target)
		if first, ok := n.FirstChild().(*ast.Text); !ok || string(first.Value(source)) != file {
			parent.InsertAfter(parent, n, ast.NewString([]byte(" ("+file+")")))
		}
		for n.HasChildren() {
			parent.InsertBefore(parent, n, n.FirstChild())
		}
		parent.RemoveChild(parent, n)
	}
}
