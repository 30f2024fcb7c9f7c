package archtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// recipe returns the commands of a Makefile target.
func recipe(t *testing.T, target string) string {
	t.Helper()
	_, rest, ok := strings.Cut(read(t, "Makefile"), "\n"+target+":")
	if !ok {
		t.Fatalf("Makefile has no target %s", target)
	}
	_, rest, _ = strings.Cut(rest, "\n")
	var commands []string
	for line := range strings.SplitSeq(rest, "\n") {
		command, ok := strings.CutPrefix(line, "\t")
		if !ok {
			break
		}
		commands = append(commands, command)
	}
	return strings.Join(commands, "\n")
}

// An image cannot be built on every machine that runs these tests. What the
// image is built with can be: the same line as `make build`.
func TestDockerfileBuildsAsMakeDoes(t *testing.T) {
	m := regexp.MustCompile(`(?m)^RUN (.*go build.*)$`).FindStringSubmatch(read(t, "docker/Dockerfile"))
	if m == nil {
		t.Fatal("docker/Dockerfile has no line that opens with RUN and calls go build")
	}
	if want := recipe(t, "build"); m[1] != want {
		t.Errorf("docker/Dockerfile: RUN %s\nMakefile, build: %s\n\tway out: change both together", m[1], want)
	}
}

// The base image has the Go version that go.mod asks for.
func TestDockerfileGoVersion(t *testing.T) {
	image := regexp.MustCompile(`(?m)^FROM .*golang:(\d+\.\d+)`).FindStringSubmatch(read(t, "docker/Dockerfile"))
	mod := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(read(t, "go.mod"))
	if image == nil || mod == nil || image[1] != mod[1] {
		t.Errorf("docker/Dockerfile builds with Go %v, go.mod has %v", image, mod)
	}
}

func TestComposeFile(t *testing.T) {
	var compose struct {
		Services map[string]struct {
			NetworkMode string   `yaml:"network_mode"`
			CapDrop     []string `yaml:"cap_drop"`
			CapAdd      []string `yaml:"cap_add"`
			ReadOnly    bool     `yaml:"read_only"`
			SecurityOpt []string `yaml:"security_opt"`
			Restart     string   `yaml:"restart"`
			Volumes     []string `yaml:"volumes"`
		} `yaml:"services"`
	}
	if err := yaml.Unmarshal([]byte(read(t, "docker/compose.yaml")), &compose); err != nil {
		t.Fatal(err)
	}
	s, ok := compose.Services["postern"]
	if !ok {
		t.Fatal("docker/compose.yaml: no service postern")
	}
	if s.NetworkMode != "host" || !s.ReadOnly || s.Restart != "unless-stopped" ||
		strings.Join(s.CapDrop, " ") != "ALL" || strings.Join(s.CapAdd, " ") != "NET_BIND_SERVICE" ||
		strings.Join(s.SecurityOpt, " ") != "no-new-privileges:true" {
		t.Errorf("docker/compose.yaml: service postern is %+v", s)
	}
	for _, v := range s.Volumes {
		if from, _, _ := strings.Cut(v, ":"); strings.HasPrefix(from, "./") {
			if _, err := os.Stat(filepath.Join(root, "docker", from)); err != nil {
				t.Errorf("docker/compose.yaml mounts %s, which is not beside it", from)
			}
		}
	}
}

// README's test command is among what CI runs, and nothing was dropped.
func TestCIRunsEverything(t *testing.T) {
	ci := read(t, ".ci/run")
	for _, command := range []string{"make lint", "go test ./...", "go test -race ./...", "go run ./cmd/proxy demo --once", "make build", "make cross", "make fuzz"} {
		if !strings.Contains(ci, " "+command) {
			t.Errorf(".ci/run does not run %s", command)
		}
	}
	lint := recipe(t, "lint")
	for _, command := range []string{"gofmt -l", "go vet ./...", "$(STATICCHECK) ./..."} {
		if !strings.Contains(lint, command) {
			t.Errorf("Makefile: lint does not run %s", command)
		}
	}
	if !strings.Contains(read(t, "README.md"), "go test ./...") {
		t.Error("README.md does not name the test command, go test ./...")
	}
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("bash is not installed")
	}
	for _, script := range []string{".ci/run", ".ci/fuzz"} {
		if out, err := exec.CommandContext(t.Context(), bash, "-n", filepath.Join(root, script)).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", script, err, out)
		}
	}
	if !strings.Contains(recipe(t, "fuzz"), ".ci/fuzz") {
		t.Error("Makefile: fuzz does not run .ci/fuzz")
	}
}

// The corpora of the fuzz targets stay small, and belong to a target.
func TestCorpora(t *testing.T) {
	const most, longest, total = 40, 4 << 10, 2 << 20
	sum := int64(0)
	folders, err := filepath.Glob(filepath.Join(root, "internal/*/testdata/fuzz/Fuzz*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range folders {
		inputs, err := os.ReadDir(folder)
		if err != nil {
			t.Fatal(err)
		}
		if len(inputs) > most {
			t.Errorf("%s: %d inputs, want at most %d", folder, len(inputs), most)
		}
		for _, input := range inputs {
			info, err := input.Info()
			if err != nil {
				t.Fatal(err)
			}
			if sum += info.Size(); info.Size() > longest {
				t.Errorf("%s/%s: %d bytes, want at most %d", folder, input.Name(), info.Size(), longest)
			}
		}
		target, found := filepath.Base(folder), false
		tests, err := filepath.Glob(filepath.Join(folder, "../../../*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, test := range tests {
			src, err := os.ReadFile(test)
			if err != nil {
				t.Fatal(err)
			}
			found = found || strings.Contains(string(src), "func "+target+"(")
		}
		if !found {
			t.Errorf("%s: there is no such fuzz target", folder)
		}
	}
	if sum > total {
		t.Errorf("the corpora have %d bytes, want at most %d", sum, total)
	}
}

// systemd's own check, where systemd is installed.
func TestSystemdUnit(t *testing.T) {
	unit := read(t, "packaging/systemd/postern.service")
	for _, line := range []string{"Type=notify", "RestartPreventExitStatus=1", "AmbientCapabilities=CAP_NET_BIND_SERVICE", "NoNewPrivileges=yes"} {
		if !strings.Contains(unit, "\n"+line+"\n") {
			t.Errorf("packaging/systemd/postern.service has no line %s", line)
		}
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	// verify wants the program to exist; its place differs by installation.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	unit = regexp.MustCompile(`(?m)^(Exec\w+=)/usr/local/bin/proxy`).ReplaceAllString(unit, "${1}"+self)
	file := filepath.Join(t.TempDir(), "postern.service")
	if err := os.WriteFile(file, []byte(unit), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", "--recursive-errors=no", file).CombinedOutput()
	if err != nil {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	for line := range strings.SplitSeq(string(out), "\n") {
		if strings.Contains(line, "postern.service") {
			t.Errorf("systemd-analyze verify: %s", line)
		}
	}
}
