package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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
