package check

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	strict "sigs.k8s.io/yaml"
)

// scaledObject is KEDA's, as much of it as is used: its own module brings half
// of Kubernetes along.
type scaledObject struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		ScaleTargetRef  struct{ Name string }
		MinReplicaCount *int32
		MaxReplicaCount *int32
		PollingInterval *int32
		CooldownPeriod  *int32
		Fallback        struct{ FailureThreshold, Replicas int32 }
		Advanced        struct {
			HorizontalPodAutoscalerConfig struct {
				Behavior *autoscalingv2.HorizontalPodAutoscalerBehavior
			}
		}
		Triggers []struct {
			Type              string
			MetricType        autoscalingv2.MetricTargetType
			Metadata          map[string]string
			AuthenticationRef struct{ Name string }
		}
	}
}

type triggerAuthentication struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		SecretTargetRef []struct{ Parameter, Name, Key string }
	}
}

type kustomization struct {
	metav1.TypeMeta `json:",inline"`
	Namespace       string
	Images          []struct{ Name, NewName, NewTag string }
	Resources       []string
}

// cluster is what the manifests have.
type cluster struct {
	deployments map[string]*appsv1.Deployment
	budgets     map[string]*policyv1.PodDisruptionBudget
	services    map[string]*corev1.Service
	configs     map[string]*corev1.ConfigMap
	accounts    map[string]*corev1.ServiceAccount
	scaled      []*scaledObject
	auths       map[string]*triggerAuthentication
	files       map[string]bool
	kustom      *kustomization
}

// read decodes every document strictly: an unknown field is an error.
func read(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{
		map[string]*appsv1.Deployment{}, map[string]*policyv1.PodDisruptionBudget{}, map[string]*corev1.Service{},
		map[string]*corev1.ConfigMap{}, map[string]*corev1.ServiceAccount{}, nil, map[string]*triggerAuthentication{}, map[string]bool{}, nil,
	}
	paths, err := filepath.Glob("../kubernetes/*.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	for _, path := range paths {
		c.files[filepath.Base(path)] = true
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		documents := yaml.NewDocumentDecoder(io.NopCloser(bytes.NewReader(text)))
		buffer := make([]byte, 1<<20)
		for {
			n, err := documents.Read(buffer)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			if err := c.add(buffer[:n]); err != nil {
				t.Fatalf("%s: %v", path, err)
			}
		}
	}
	return c
}

func (c *cluster) add(document []byte) error {
	var kind metav1.TypeMeta
	if err := strict.Unmarshal(document, &kind); err != nil {
		return err
	}
	switch kind.APIVersion + " " + kind.Kind {
	case "apps/v1 Deployment":
		return keep(document, c.deployments)
	case "policy/v1 PodDisruptionBudget":
		return keep(document, c.budgets)
	case "v1 Service":
		return keep(document, c.services)
	case "v1 ConfigMap":
		return keep(document, c.configs)
	case "v1 ServiceAccount":
		return keep(document, c.accounts)
	case "keda.sh/v1alpha1 TriggerAuthentication":
		return keep(document, c.auths)
	case "keda.sh/v1alpha1 ScaledObject":
		s := new(scaledObject)
		c.scaled = append(c.scaled, s)
		return strict.UnmarshalStrict(document, s)
	case "kustomize.config.k8s.io/v1beta1 Kustomization":
		c.kustom = new(kustomization)
		return strict.UnmarshalStrict(document, c.kustom)
	case "v1 Namespace":
		return strict.UnmarshalStrict(document, new(corev1.Namespace))
	default:
		return errors.New("nobody expects a " + kind.APIVersion + " " + kind.Kind)
	}
}

func keep[T any, P interface {
	*T
	GetName() string
	GetNamespace() string
}](document []byte, into map[string]P) error {
	p := P(new(T))
	if err := strict.UnmarshalStrict(document, p); err != nil {
		return err
	}
	if p.GetNamespace() != "stem" || into[p.GetName()] != nil {
		return errors.New(p.GetName() + " is there twice, or in another namespace")
	}
	into[p.GetName()] = p
	return nil
}

func TestKustomization(t *testing.T) {
	c := read(t)
	for _, name := range c.kustom.Resources {
		if !c.files[name] {
			t.Errorf("there is no %s", name)
		}
	}
	if len(c.kustom.Resources) != len(c.files)-2 { // itself, and what needs KEDA
		t.Errorf("%d resources, %d files", len(c.kustom.Resources), len(c.files))
	}
}

func TestDeployments(t *testing.T) {
	c := read(t)
	for _, name := range []string{"stem-worker", "stem-beat", "stem-api"} {
		t.Run(name, func(t *testing.T) {
			d := c.deployments[name]
			if d == nil {
				t.Fatal("there is none")
			}
			checkLabels(t, c, d)
			pod := d.Spec.Template.Spec
			if len(pod.Containers) != 1 || c.accounts[pod.ServiceAccountName] == nil || pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
				t.Fatal("not one container, or an account that is not there, or one that is mounted")
			}
			checkSecurity(t, &pod)
			checkProbes(t, &pod.Containers[0])
			checkEnvironment(t, c, &pod)
			checkMounts(t, &pod)
			grace := time.Duration(*pod.TerminationGracePeriodSeconds) * time.Second
			if stop := stopTime(t, pod.Containers[0].Args); grace < stop+5*time.Second {
				t.Errorf("killed after %s, and may take %s to stop", grace, stop)
			}
		})
	}
}

func checkLabels(t *testing.T, c *cluster, d *appsv1.Deployment) {
	t.Helper()
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		t.Fatal(err)
	}
	budget := c.budgets[d.Name]
	if budget == nil {
		t.Fatal("no disruption budget")
	}
	disturbed, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
	if err != nil {
		t.Fatal(err)
	}
	labels := set(d.Spec.Template.Labels)
	if !selector.Matches(labels) || !disturbed.Matches(labels) {
		t.Error("deployment or budget do not select its pods")
	}
	for other, o := range c.deployments {
		if other != d.Name && (selector.Matches(set(o.Spec.Template.Labels)) || disturbed.Matches(set(o.Spec.Template.Labels))) {
			t.Errorf("selects the pods of %s too", other)
		}
	}
}

// checkSecurity: what the restricted Pod Security Standard asks for, and a root
// file system that is read-only.
func checkSecurity(t *testing.T, pod *corev1.PodSpec) {
	t.Helper()
	p, s := pod.SecurityContext, pod.Containers[0].SecurityContext
	if p == nil || s == nil || p.RunAsNonRoot == nil || !*p.RunAsNonRoot || p.RunAsUser == nil || *p.RunAsUser == 0 ||
		p.SeccompProfile == nil || p.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Error("runs as root, or without a seccomp profile")
	}
	if s == nil || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation ||
		s.Capabilities == nil || len(s.Capabilities.Drop) != 1 || s.Capabilities.Drop[0] != "ALL" {
		t.Error("has capabilities, or a root file system that it can write to")
	}
}

func checkProbes(t *testing.T, c *corev1.Container) {
	t.Helper()
	if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() || c.Resources.Limits.Memory().IsZero() {
		t.Error("asks for no resources")
	}
	ports := map[string]int32{}
	for _, p := range c.Ports {
		ports[p.Name] = p.ContainerPort
	}
	for path, probe := range map[string][]*corev1.Probe{"/healthz": {c.StartupProbe, c.LivenessProbe}, "/readyz": {c.ReadinessProbe}} {
		for _, p := range probe {
			if p == nil || p.HTTPGet == nil || p.HTTPGet.Path != path {
				t.Errorf("no probe of %s", path)
				continue
			}
			port := ports[p.HTTPGet.Port.StrVal]
			if port == 0 || !strings.Contains(strings.Join(c.Args, " "), "--http 0.0.0.0:"+strconv.Itoa(int(port))) {
				t.Errorf("the probe of %s asks port %s, where nothing listens", path, p.HTTPGet.Port.StrVal)
			}
		}
	}
}

// checkEnvironment: secrets come by reference, as files, and every reference
// leads somewhere.
func checkEnvironment(t *testing.T, c *cluster, pod *corev1.PodSpec) {
	t.Helper()
	env := map[string]string{}
	for _, from := range pod.Containers[0].EnvFrom {
		m := c.configs[from.ConfigMapRef.Name]
		if m == nil {
			t.Fatalf("no config map %s", from.ConfigMapRef.Name)
		}
		for k, v := range m.Data {
			env[k] = v
		}
	}
	for _, e := range pod.Containers[0].Env {
		env[e.Name] = e.Value
	}
	files := map[string]bool{}
	for _, v := range pod.Volumes {
		if v.Secret != nil {
			for _, item := range v.Secret.Items {
				files["@/run/secrets/stem/"+item.Path] = true
			}
		}
	}
	for _, name := range []string{"STEM_BROKER_URL", "STEM_API_TOKENS"} {
		value, ok := env[name]
		if name == "STEM_API_TOKENS" && pod.Containers[0].Args[0] != "serve" {
			if ok {
				t.Error("has the API's tokens, and needs none")
			}
			continue
		}
		if !files[value] {
			t.Errorf("%s is %q, which is no file of a secret", name, value)
		}
	}
}

func checkMounts(t *testing.T, pod *corev1.PodSpec) {
	t.Helper()
	volumes := map[string]bool{}
	for _, v := range pod.Volumes {
		volumes[v.Name] = true
	}
	for _, m := range pod.Containers[0].VolumeMounts {
		if !volumes[m.Name] {
			t.Errorf("%s is mounted, and is no volume", m.Name)
		}
		delete(volumes, m.Name)
	}
	for name := range volumes {
		t.Errorf("volume %s is not mounted", name)
	}
}

// set makes labels of a map.
type set map[string]string

func (s set) Has(k string) bool              { _, ok := s[k]; return ok }
func (s set) Get(k string) string            { return s[k] }
func (s set) Lookup(k string) (string, bool) { v, ok := s[k]; return v, ok }

// stopTime is how long a process with these arguments may take to stop.
func stopTime(t *testing.T, args []string) time.Duration {
	t.Helper()
	var sum time.Duration
	for i, a := range args[:len(args)-1] {
		if a == "--grace" || a == "--drain-delay" {
			d, err := time.ParseDuration(args[i+1])
			if err != nil {
				t.Fatal(err)
			}
			sum += d
		}
	}
	return sum
}

// TestAutoscaling: the trigger asks a service that is there, under a name that
// the API answers to, and scales a deployment that leaves its number alone.
func TestAutoscaling(t *testing.T) {
	c := read(t)
	if len(c.scaled) != 1 || len(c.scaled[0].Spec.Triggers) != 1 {
		t.Fatal("not one scaled object with one trigger")
	}
	s := c.scaled[0]
	d := c.deployments[s.Spec.ScaleTargetRef.Name]
	if d == nil || d.Spec.Replicas != nil {
		t.Error("what it scales is not there, or is scaled by its manifest as well")
	}
	trigger := s.Spec.Triggers[0]
	rest, ok := strings.CutPrefix(trigger.Metadata["url"], "http://")
	host, path, _ := strings.Cut(rest, "/")
	name, port, _ := strings.Cut(host, ":")
	service := c.services[strings.TrimSuffix(name, ".stem.svc.cluster.local")]
	if !ok || service == nil || strconv.Itoa(int(service.Spec.Ports[0].Port)) != port || !strings.HasPrefix(path, "v1/scale?queue=") {
		t.Errorf("nothing is at %s", trigger.Metadata["url"])
	}
	api := c.deployments["stem-api"].Spec.Template.Spec.Containers[0]
	if !strings.Contains(strings.Join(api.Args, " ")+" ", "--allow-host "+name+" ") {
		t.Errorf("the API does not answer to %s", name)
	}
	if trigger.Type != "metrics-api" || trigger.MetricType != autoscalingv2.AverageValueMetricType || trigger.Metadata["valueLocation"] != "value" {
		t.Error("KEDA would not find the number, or could not fall back")
	}
	auth := c.auths[trigger.AuthenticationRef.Name]
	if auth == nil || auth.Spec.SecretTargetRef[0].Parameter != "token" || trigger.Metadata["authMode"] != "bearer" {
		t.Error("KEDA has no token to show")
	}
}
