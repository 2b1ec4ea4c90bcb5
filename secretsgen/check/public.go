package check

import (
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"fleet/evaluator/plan"
	"fleet/secretsgen/public"
	"fleet/secretsgen/secret"
	"fleet/secretsgen/state"
)

// public holds public parts against their declared types, and certificates against the expiry that is known of the value.
func (c *checking) public(e *state.Entry, d *declaration) {
	mend := d.another(e.ID)
	var ends []time.Time
	for _, part := range slices.Sorted(maps.Keys(e.Public)) {
		declared, ok := d.spec.Parts[part]
		if !ok || declared.Encrypted {
			continue // whether it is declared as it is, decisions say
		}
		if err := public.Validate(declared.Type, declared.Pattern, e.Public[part]); err != nil {
			c.fail(Finding{ID: e.ID, Host: hostOf(e.ID, d), Reason: fmt.Sprintf("its public part %q is not of type %s: %v", part, declared.Type, err), Mend: mend})
			continue
		}
		if declared.Type == plan.TypeX509 {
			if certificates, err := public.Certificates(e.Public[part]); err == nil {
				ends = append(ends, certificates[0].NotAfter)
			}
		}
	}
	if len(ends) > 0 {
		c.expiry(e, d, slices.MinFunc(ends, time.Time.Compare), mend)
	}
}

// expiry holds the value's expiry against the first end of its certificates.
func (c *checking) expiry(e *state.Entry, d *declaration, end time.Time, mend string) {
	f := Finding{ID: e.ID, Host: hostOf(e.ID, d), Mend: mend}
	known := e.Meta.ExpiresAt
	words := "its certificate ends on " + end.UTC().Format(time.DateTime) + " UTC"
	switch {
	case known == nil:
		f.Reason = words + ", and meta.json knows of no expiry, so nothing renews it"
		c.warn(f)
	case known.After(end):
		f.Reason = words + ", and meta.json says it expires later, on " + known.UTC().Format(time.DateTime) + " UTC"
		c.fail(f)
	case known.Before(end.Add(-time.Second)):
		f.Reason = words + ", and meta.json says it expires earlier, on " + known.UTC().Format(time.DateTime) + " UTC"
		c.warn(f)
	}
}

// maxFile bounds what is read of one file, in bytes; larger ones are none of the state's.
const maxFile = 16 << 20

// checkFiles looks for private keys in all files of the state, by their marks.
func (c *checking) checkFiles() {
	if c.Files == nil {
		return
	}
	err := fs.WalkDir(c.Files, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.Type().IsRegular():
			return c.file(name)
		case !entry.IsDir():
			c.warn(Finding{Reason: name + " in the state is neither a file nor a folder, and was not looked into", Mend: "remove it"})
		}
		return nil
	})
	if err != nil {
		c.fail(Finding{Reason: fmt.Sprintf("the state cannot be read: %v", err), Mend: "git status"})
	}
	for _, id := range slices.SortedFunc(maps.Keys(c.Tree.Secrets), byID) {
		for part, value := range c.Tree.Secrets[id].Public {
			if c.Tree.Secrets[id].Meta.Parts[part].Encoding == secret.EncodingBase64 {
				c.leak(path.Join("secrets", id.String(), "public", part), value)
			}
		}
	}
}

func (c *checking) file(name string) error {
	f, err := c.Files.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() > maxFile {
		c.warn(Finding{Reason: fmt.Sprintf("%s in the state has more than %d bytes, and was not looked into", name, maxFile), Mend: "remove it"})
		return nil
	}
	data := make([]byte, info.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	c.leak(name, data)
	return nil
}

// leak names a file that holds a private key. Its value is known to whoever has the repository.
func (c *checking) leak(name string, data []byte) {
	marker := public.PrivateMarker(data)
	if marker == "" {
		return
	}
	f := Finding{Reason: fmt.Sprintf("%s in the state holds %s", name, marker), Mend: "remove it, also from git's history, and replace the key where it is used"}
	words := strings.Split(name, "/")
	if len(words) > 2 && words[0] == "secrets" {
		n := 3
		if words[1] == "host" {
			n = 4
		}
		if id, err := secret.ParseID(strings.Join(words[1:min(n, len(words))], "/")); err == nil {
			f.ID, f.Host = id, hostOf(id, c.all[id])
			f.Mend = c.all[id].another(id) + ", for a new value; the old one stays in git's history"
		}
	}
	c.fail(f)
}
