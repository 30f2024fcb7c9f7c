package notify

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"postern/internal/durable"
)

// saveEvery is how often what waits is written down, if it changed. A digest
// that was posted is written down at once.
const saveEvery = 5 * time.Minute

// maxState bounds the file that is read at the start.
const maxState = 4 << 20

// savedState is the file.
type savedState struct {
	Version  int                     `json:"version"`
	Channels map[string]savedChannel `json:"channels"` // by Channel.Key
}

type savedChannel struct {
	Desk desk `json:"desk"`
}

const stateVersion = 1

// load reads what an earlier outbox left.
func (o *Outbox) load() {
	o.old = make(map[string]savedChannel)
	if o.cfg.File == "" {
		return
	}
	s, err := readState(o.cfg.File)
	switch {
	case err == nil:
		o.old = s.Channels
		for key, c := range o.old {
			c.Desk.check(o.kinds)
			o.old[key] = c
		}
	case errors.Is(err, fs.ErrNotExist):
	default:
		aside := o.cfg.File + ".broken"
		o.log.Warn("messages that waited cannot be read and are moved aside", "file", o.cfg.File, "aside", aside, "err", err)
		if err := os.Rename(o.cfg.File, aside); err != nil {
			o.log.Warn("moving aside did not work", "file", o.cfg.File, "err", err)
		}
	}
}

func readState(path string) (*savedState, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxState+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxState {
		return nil, fmt.Errorf("%s: larger than %d bytes, which it never is", path, maxState)
	}
	s := new(savedState)
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if s.Version != stateVersion {
		return nil, fmt.Errorf("%s: version %d, want %d", path, s.Version, stateVersion)
	}
	if s.Channels == nil {
		s.Channels = make(map[string]savedChannel)
	}
	return s, nil
}

// check drops what this version does not know, and what is beyond bounds.
func (d *desk) check(known map[Kind]kind) {
	keep := d.Urgent[:0]
	for _, m := range d.Urgent {
		if _, ok := known[m.Kind]; ok && len(keep) < maxUrgent {
			m.Args = bounded(m.Args)
			keep = append(keep, m)
		}
	}
	d.Urgent = keep
	if d.Digest != nil {
		rows := d.Digest.Rows[:0]
		for _, r := range d.Digest.Rows {
			if _, ok := known[r.Message.Kind]; ok && len(rows) < maxRows {
				r.Message.Args = bounded(r.Message.Args)
				rows = append(rows, r)
			}
		}
		d.Digest.Rows = rows
	}
}

// save writes down what waits. What cannot be written is told once in the
// log.
func (o *Outbox) save() {
	if o.cfg.File == "" {
		return
	}
	o.saving.Lock()
	defer o.saving.Unlock()
	s := struct {
		Version  int                        `json:"version"`
		Channels map[string]json.RawMessage `json:"channels"`
	}{stateVersion, make(map[string]json.RawMessage)}
	for _, c := range o.list() {
		c.mu.Lock()
		b, err := json.Marshal(savedChannel{c.desk}) // under the lock: a desk is full of maps and slices
		c.mu.Unlock()
		if err == nil {
			s.Channels[c.key] = b
		}
	}
	b, err := json.Marshal(s)
	if err == nil && string(b) == o.savedAs {
		return
	}
	if err == nil {
		err = durable.WriteFile(o.cfg.File, b, 0o600)
	}
	if err != nil && !o.saveFailed {
		o.log.Warn("messages that wait cannot be written down; a restart would forget them", "file", o.cfg.File, "err", err)
	}
	if o.saveFailed = err != nil; err == nil {
		o.savedAs = string(b)
	}
}
