package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain makes this test binary the command that the scripts run: under the
// name proxy it is main.
func TestMain(m *testing.M) {
	if os.Getenv(isolatedEnv) != "" {
		if err := raiseLoopback(); err != nil {
			fmt.Fprintln(os.Stderr, "loopback:", err)
			os.Exit(1)
		}
	}
	testscript.Main(m, map[string]func(){"proxy": main})
}

// The scripts of testdata/script try the command as its users do. What they
// may call beyond testscript's own commands is in the table of commands.
func TestScripts(t *testing.T) {
	testscript.Run(t, params(filepath.Join("testdata", "script")))
}

// Who reads the log may go away; the proxy goes on.
func TestLogReaderGone(t *testing.T) {
	s := newScene(t.TempDir())
	defer s.close()
	file := filepath.Join(s.dir, "postern.yaml")
	text := `
listen: {http: "127.0.0.1:0", https: ""}
admin: {listen: ""}
data: data
sites: [{hosts: [a.test], routes: [{respond: {body: "a\n"}}]}]
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "proxy", "run", "-c", file)
	cmd.Stderr = write
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = write.Close() // the child has its own
	line, err := bufio.NewReader(read).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	s.http = listens["HTTP"].FindStringSubmatch(line)[1]
	_ = read.Close()
	for range 3 {
		res, err := s.client.Get("http://a.test/")
		if err != nil {
			t.Fatal(err)
		}
		if a := readAnswer(res); a.status != 200 {
			t.Fatalf("status %d", a.status)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
}

func params(dir string) testscript.Params {
	return testscript.Params{
		Dir:                 dir,
		Cmds:                commands,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			s := newScene(env.WorkDir)
			env.Values[sceneKey{}] = s
			env.Defer(s.close)
			env.Setenv("HOME", env.WorkDir)
			for _, name := range []string{"POSTERN_CONFIG", "POSTERN_ADMIN_TOKEN", "XDG_DATA_HOME", "NOTIFY_SOCKET", "STATE_DIRECTORY"} {
				env.Setenv(name, "")
			}
			for _, v := range env.Vars {
				key, _, _ := strings.Cut(v, "=")
				s.env = append(s.env, key)
			}
			return nil
		},
		Condition: func(cond string) (bool, error) {
			switch name, arg, _ := strings.Cut(cond, ":"); name {
			case "root":
				return os.Geteuid() == 0, nil
			case "exists":
				_, err := os.Stat(arg)
				return err == nil, nil
			case "drops": // whether a capability can be taken away
				err := exec.Command("setpriv", "--bounding-set=-"+arg, "true").Run()
				return os.Geteuid() == 0 && err == nil, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
	}
}
