package tlsmgr

import (
	"encoding/base64"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// snapshot is every file below dir with its time and content.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		raw, err := os.ReadFile(p)
		out[p] = info.ModTime().String() + string(raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// What is on disk is told without a running Manager, and stays as it is.
func TestStored(t *testing.T) {
	t.Parallel()
	cfg := Config{Dir: t.TempDir(), Issuer: "local", Names: []string{"a.example", "*.wild.example"}}
	m := localManager(t, cfg)
	want := m.Status()
	m.ledger.update("a.example", func(r *record) {
		r.LastError, r.Meaning, r.LastErrorAt = "no", "it said no", time.Now()
	})
	if err := m.ledger.save(time.Now()); err != nil {
		t.Fatal(err)
	}
	m.Close()
	before := snapshot(t, cfg.Dir)
	cfg.Names = append(cfg.Names, "new.example")
	got, err := Stored(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 || got[0].Serial != want[0].Serial || got[1].Serial != want[1].Serial || got[1].LastError != "no" || got[2].State != StateMissing {
		t.Errorf("got %+v\nwant the serials of %+v", got, want)
	}
	cfg.Names = nil
	if all, err := Stored(cfg); err != nil || len(all) != 2 || all[0].Name != "*.wild.example" || all[1].Name != "a.example" {
		t.Errorf("without names: %v, %+v", err, all)
	}
	if diff := cmp.Diff(before, snapshot(t, cfg.Dir)); diff != "" {
		t.Errorf("the folder changed (-before +after)\n%s", diff)
	}

	// A crash in the middle of a write, and a damaged file.
	cert, _, _ := siteKeys("local-"+must(openLocalCA(localDir(cfg.Dir), m.log)).id, "a.example")
	raw := must(os.ReadFile(m.eng.storage.Filename(cert)))
	writeFile(t, m.eng.storage.Filename(cert), "half")
	cfg.Names = []string{"a.example"}
	if got, err := Stored(cfg); err != nil || got[0].State != StateMissing || got[0].LastError != "no" {
		t.Errorf("damaged: %v, %+v", err, got)
	}
	if err := os.Remove(filepath.Join(cfg.Dir, "attempts.json")); err != nil {
		t.Fatal(err)
	}
	if got, err := Stored(cfg); err != nil || got[0].State != StateMissing || got[0].Meaning == "" {
		t.Errorf("damaged, without a memory: %v, %+v", err, got)
	}
	if err := m.eng.storage.write(path.Join(path.Dir(cert), journalFile), []byte(`{"`+cert+`":"`+base64.StdEncoding.EncodeToString(raw)+`"}`)); err != nil {
		t.Fatal(err)
	}
	if got, err := Stored(cfg); err != nil || got[0].Serial != want[1].Serial {
		t.Errorf("journal left behind: %v, %+v", err, got)
	}
}

// A folder that is not there holds nothing, and is not made.
func TestStoredNothing(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "none")
	got, err := Stored(Config{Dir: dir, Names: []string{"a.example"}})
	if err != nil || len(got) != 1 || got[0].State != StateMissing || got[0].LastError+got[0].Sentence != "" || got[0].AttemptsLeft != 4 {
		t.Errorf("%v, %+v", err, got)
	}
	if got, err := Stored(Config{Dir: dir, Issuer: "local", Names: []string{"a.example"}}); err != nil || len(got) != 1 || got[0].Sentence != "" {
		t.Errorf("%v, %+v", err, got)
	}
	if got, err := Stored(Config{Dir: dir, Issuer: "local"}); err != nil || len(got) != 0 {
		t.Errorf("%v, %+v", err, got)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the folder was made")
	}
	if _, err := Stored(Config{Dir: dir, Names: []string{"a b"}}); err == nil {
		t.Error("a bad name: no error")
	}
}
