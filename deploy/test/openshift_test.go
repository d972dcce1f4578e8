package test

import (
	"fmt"
	"slices"
	"testing"

	"helm.sh/helm/v3/pkg/chartutil"
	corev1 "k8s.io/api/core/v1"
)

// openShiftKind is what an API server of OpenShift serves besides.
const openShiftKind = "security.openshift.io/v1"

// restrictedV2 returns why OpenShift's SecurityContextConstraints restricted-v2, which every user has, rejects the pod.
// The rules are those of its manifest (openshift/cluster-kube-apiserver-operator, bindata/bootkube/scc-manifests) as
// openshift/apiserver-library-go (pkg/securitycontextconstraints/sccmatching/provider.go) applies them: what the pod
// leaves out is set from the namespace's ranges, and what it sets must be in them.
func restrictedV2(pod corev1.PodSpec) (reasons []string) {
	reject := func(format string, args ...any) { reasons = append(reasons, fmt.Sprintf(format, args...)) }
	// The annotations openshift.io/sa.scc.uid-range and sa.scc.supplemental-groups of a namespace, such as 1000680000/10000.
	inRange := func(field string, id *int64) {
		if id != nil && (*id < 1000680000 || *id > 1000689999) {
			reject("%s %d is not in the namespace's range", field, *id)
		}
	}
	if pod.HostNetwork || pod.HostPID || pod.HostIPC {
		reject("host network, PID or IPC")
	}
	if c := pod.SecurityContext; c != nil {
		inRange("runAsUser", c.RunAsUser)
		inRange("fsGroup", c.FSGroup)
		if c.SELinuxOptions != nil {
			reject("seLinuxOptions are the namespace's")
		}
		if c.SeccompProfile != nil && c.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
			reject("seccomp profile %s", c.SeccompProfile.Type)
		}
		if len(c.Sysctls) > 0 {
			reject("sysctls")
		}
	}
	for _, v := range pod.Volumes {
		if s := v.VolumeSource; s.ConfigMap == nil && s.CSI == nil && s.DownwardAPI == nil && s.EmptyDir == nil && s.Ephemeral == nil &&
			s.Image == nil && s.PersistentVolumeClaim == nil && s.Projected == nil && s.Secret == nil {
			reject("volume %s", v.Name)
		}
	}
	for _, container := range slices.Concat(pod.InitContainers, pod.Containers) {
		for _, port := range container.Ports {
			if port.HostPort != 0 {
				reject("host port %d", port.HostPort)
			}
		}
		c := container.SecurityContext
		if c == nil {
			continue
		}
		inRange("runAsUser", c.RunAsUser)
		if c.Privileged != nil && *c.Privileged || c.AllowPrivilegeEscalation != nil && *c.AllowPrivilegeEscalation {
			reject("privileges")
		}
		if c.SELinuxOptions != nil {
			reject("seLinuxOptions are the namespace's")
		}
		if c.SeccompProfile != nil && c.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
			reject("seccomp profile %s", c.SeccompProfile.Type)
		}
		if c.Capabilities != nil && slices.ContainsFunc(c.Capabilities.Add, func(c corev1.Capability) bool { return c != "NET_BIND_SERVICE" }) {
			reject("capabilities %v", c.Capabilities.Add)
		}
	}
	return reasons
}

// TestChart_OpenShift checks that OpenShift accepts the pod of each installation, with the same values as elsewhere.
func TestChart_OpenShift(t *testing.T) {
	openshift := append(chartutil.VersionSet{openShiftKind}, operatorKinds...)
	for _, c := range charts {
		t.Run(c.release, func(t *testing.T) {
			text, _, err := render(load(t), c.release, c.values, openshift)
			must(t, err)
			m := decode(t, text)
			m.check(t)
			if reasons := restrictedV2(m.Deployment.Spec.Template.Spec); reasons != nil {
				t.Errorf("OpenShift rejects the pod: %q", reasons)
			}
			if group := m.Deployment.Spec.Template.Spec.SecurityContext.RunAsGroup; group != nil {
				t.Errorf("a fixed group: %d", *group)
			}
		})
	}
}

func TestChart_securityContext(t *testing.T) {
	const fixed = `["runAsUser 65532 is not in the namespace's range" "fsGroup 65532 is not in the namespace's range"]`
	for values, c := range map[string]struct {
		kinds chartutil.VersionSet
		want  string
	}{
		"{}": {nil, fixed},
		"{global: {compatibility: {openshift: {adaptSecurityContext: force}}}}":    {nil, "[]"},
		"{global: {compatibility: {openshift: {adaptSecurityContext: disabled}}}}": {chartutil.VersionSet{openShiftKind}, fixed},
		"{global: {imageRegistry: of-another-chart}}":                              {chartutil.VersionSet{openShiftKind}, "[]"},
		"{podSecurityContext: {runAsUser: null, fsGroup: null}}":                   {nil, "[]"},
		"{podSecurityContext: {runAsUser: 1000680001, fsGroup: 1000680002}, securityContext: {runAsUser: 1}}": {
			nil, `["runAsUser 1 is not in the namespace's range"]`,
		},
		"{podSecurityContext: {runAsUser: 1, fsGroup: 1000680002}, securityContext: {runAsUser: 1, privileged: true}}": {
			chartutil.VersionSet{openShiftKind}, `["privileges"]`,
		},
	} {
		text, _, err := render(load(t), "memdump", values, c.kinds)
		must(t, err)
		if got := fmt.Sprintf("%q", restrictedV2(decode(t, text).Deployment.Spec.Template.Spec)); got != c.want {
			t.Errorf("%s with %v: rejected for %s, want %s", values, c.kinds, got, c.want)
		}
	}
}
