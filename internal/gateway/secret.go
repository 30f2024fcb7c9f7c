package gateway

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"postern/internal/durable"
)

// secretFile is what Config.File holds.
type secretFile struct {
	Secret string `json:"secret"` // 32 bytes in hex
}

// loadSecret reads the secret behind our nonces, or makes one and keeps it. A
// broken file is replaced: all that is lost is the right to renew what a
// router may still hold of before.
func loadSecret(path string) (secret [32]byte, err error) {
	if path != "" {
		b, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return secret, fmt.Errorf("gateway: %w", err)
		}
		var f secretFile
		if json.Unmarshal(b, &f) == nil {
			if raw, err := hex.DecodeString(f.Secret); err == nil && len(raw) == len(secret) {
				return [32]byte(raw), nil
			}
		}
	}
	_, _ = rand.Read(secret[:]) // it never returns an error
	if path == "" {
		return secret, nil
	}
	b, err := json.Marshal(secretFile{hex.EncodeToString(secret[:])})
	if err != nil {
		return secret, err
	}
	if err := durable.WriteFile(path, append(b, '\n'), 0o600); err != nil {
		return secret, fmt.Errorf("gateway: %w", err)
	}
	return secret, nil
}
