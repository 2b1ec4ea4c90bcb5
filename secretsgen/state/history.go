package state

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"fleet/secretsgen/secret"
)

// maxLog bounds how many commits of one secret are read.
const maxLog = 1000

// Change is what became of a secret between two states: in a commit, or since a revision.
type Change struct {
	ID secret.ID `json:"id"`
	// Commit, Author, At and Subject are the commit's; empty for what is not committed, and in [Store.Diff].
	Commit  string    `json:"commit,omitempty"`
	Author  string    `json:"author,omitempty"`
	At      time.Time `json:"at,omitzero"`
	Subject string    `json:"subject,omitempty"`
	// OldGen is empty for a secret that is new, Gen for one that was removed; both are for one whose meta.json cannot be read.
	OldGen secret.Gen `json:"oldGen,omitempty"`
	Gen    secret.Gen `json:"gen,omitempty"`
	// Removed says that the secret is gone.
	Removed bool `json:"removed,omitempty"`
	// OwnersAdded and OwnersRemoved are hosts, sorted. OwnersRewrapped have another copy of the same value.
	OwnersAdded     []string `json:"ownersAdded,omitempty"`
	OwnersRemoved   []string `json:"ownersRemoved,omitempty"`
	OwnersRewrapped []string `json:"ownersRewrapped,omitempty"`
	// OldExpiresAt and ExpiresAt are nil where the value does not expire.
	OldExpiresAt *time.Time `json:"oldExpiresAt,omitempty"`
	ExpiresAt    *time.Time `json:"expiresAt,omitempty"`
}

// fileChange is one file as git log and git diff name it.
type fileChange struct{ status, file string }

// Log lists what became of a secret, commit by commit, the newest first, beginning with what is not committed. The error says so where there is no git.
func (s *Store) Log(ctx context.Context, id secret.ID) ([]Change, error) {
	changes, err := s.log(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("read the history of secret %s: %w", id, err)
	}
	return changes, nil
}

func (s *Store) log(ctx context.Context, id secret.ID) ([]Change, error) {
	if err := id.Validate(); err != nil {
		return nil, err
	}
	head, err := s.commit(ctx, "HEAD")
	if err != nil {
		return nil, err
	}
	changes, err := s.diff(ctx, head, s.Path(id))
	if err != nil {
		return nil, err
	}
	out, err := s.git(ctx, nil, "log", "--max-count="+strconv.Itoa(maxLog), "--no-renames", "--no-show-signature", "--relative", "--name-status", "-z", "--diff-merges=first-parent",
		"--format=%x01%H%x00%an%x00%aI%x00%s", "--end-of-options", head, "--", s.Path(id))
	if err != nil {
		return nil, err
	}
	commits, err := parseLog(out)
	if err != nil {
		return nil, err
	}
	metas, err := s.metasOf(ctx, id, commits)
	if err != nil {
		return nil, err
	}
	for i, c := range commits {
		change := changeOf(id, s.Path(id), metas[2*i], metas[2*i+1], c.files)
		change.Commit, change.Author, change.At, change.Subject = c.hash, c.author, c.at, c.subject
		changes = append(changes, change)
	}
	return changes, nil
}

// metasOf reads meta.json before and after every commit; nil where it is not there or cannot be read.
func (s *Store) metasOf(ctx context.Context, id secret.ID, commits []logged) ([]*secret.Meta, error) {
	var names []string
	for _, c := range commits {
		at := ":./" + path.Join(s.Path(id), metaFile)
		names = append(names, c.hash+"^"+at, c.hash+at)
	}
	return s.metas(ctx, names)
}

func (s *Store) metas(ctx context.Context, names []string) ([]*secret.Meta, error) {
	blobs, err := s.blobs(ctx, names)
	if err != nil {
		return nil, err
	}
	metas := make([]*secret.Meta, len(blobs))
	for i, blob := range blobs {
		if meta, err := secret.DecodeMeta(blob); err == nil {
			metas[i] = &meta
		}
	}
	return metas, nil
}

// logged is a commit of git log.
type logged struct {
	hash, author, subject string
	at                    time.Time
	files                 []fileChange
}

// parseLog reads what git log prints with the format of [Store.log]. Every field ends in NUL; before the first status of a commit that changes
// files there is a newline.
func parseLog(out []byte) ([]logged, error) {
	var commits []logged
	tokens := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	for len(tokens) > 3 {
		hash, ok := strings.CutPrefix(tokens[0], "\x01")
		if !ok {
			return nil, fmt.Errorf("git log printed %.40q where a commit begins", tokens[0])
		}
		at, err := time.Parse(time.RFC3339, tokens[2])
		if err != nil {
			return nil, fmt.Errorf("git log printed %.40q where a time should be", tokens[2])
		}
		c := logged{hash: hash, author: printableText(tokens[1]), at: at, subject: printableText(tokens[3])}
		if tokens = tokens[4:]; len(tokens) > 0 {
			status, changes := strings.CutPrefix(tokens[0], "\n")
			for changes && len(tokens) > 1 {
				c.files = append(c.files, fileChange{status: status, file: tokens[1]})
				if tokens = tokens[2:]; len(tokens) > 0 {
					status, changes = tokens[0], !strings.HasPrefix(tokens[0], "\x01")
				}
			}
		}
		commits = append(commits, c)
	}
	return commits, nil
}

// printableText is a line that others wrote, without what does something to a terminal.
func printableText(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return -1
		}
		return r
	}, strings.ToValidUTF8(text, "�"))
}

// Diff lists what became of the secrets since a revision, in the work tree as it is, sorted by id.
func (s *Store) Diff(ctx context.Context, rev string) ([]Change, error) {
	commit, err := s.commit(ctx, rev)
	if err == nil {
		var changes []Change
		if changes, err = s.diff(ctx, commit, path.Join(s.folder(), "secrets")); err == nil {
			return changes, nil
		}
	}
	return nil, fmt.Errorf("compare the state with revision %.80q: %w", rev, err)
}

// commit resolves a revision, so that it cannot be taken for an option.
func (s *Store) commit(ctx context.Context, rev string) (string, error) {
	if strings.ContainsAny(rev, "\n\x00") {
		return "", errors.New("it is no revision")
	}
	out, err := s.git(ctx, nil, "rev-parse", "--verify", "--end-of-options", rev+"^{commit}")
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(out)), nil
}

func (s *Store) diff(ctx context.Context, commit, below string) ([]Change, error) {
	out, err := s.git(ctx, nil, "diff", "--no-renames", "--no-ext-diff", "--relative", "--name-status", "-z", commit, "--", below)
	if err != nil {
		return nil, err
	}
	byID := map[secret.ID][]fileChange{}
	names := fields(out)
	for i := 0; i+1 < len(names); i += 2 {
		if id, ok := s.idOf(names[i+1]); ok {
			byID[id] = append(byID[id], fileChange{names[i], names[i+1]})
		}
	}
	if len(byID) == 0 {
		return nil, nil
	}
	now, err := s.Load()
	if err != nil {
		return nil, err
	}
	ids := slices.SortedFunc(maps.Keys(byID), compareIDs)
	before := make([]string, len(ids))
	for i, id := range ids {
		before[i] = commit + ":./" + path.Join(s.Path(id), metaFile)
	}
	metas, err := s.metas(ctx, before)
	if err != nil {
		return nil, err
	}
	var changes []Change
	for i, id := range ids {
		var meta *secret.Meta
		if e := now.Secrets[id]; e != nil && e.Meta.Gen != "" {
			meta = &e.Meta
		}
		change := changeOf(id, s.Path(id), metas[i], meta, byID[id])
		change.Removed = now.Secrets[id] == nil
		changes = append(changes, change)
	}
	return changes, nil
}

func compareIDs(a, b secret.ID) int { return strings.Compare(a.String(), b.String()) }

// idOf is the secret that a file, relative to the folder of the flake, belongs to.
func (s *Store) idOf(file string) (secret.ID, bool) {
	rest, ok := strings.CutPrefix(file, s.folder()+"/secrets/")
	words := strings.Split(rest, "/")
	n := 2
	if words[0] == hostFolder {
		n = 3
	}
	if !ok || len(words) <= n {
		return secret.ID{}, false
	}
	id, err := secret.ParseID(strings.Join(words[:n], "/"))
	return id, err == nil
}

// changeOf tells one change from the metadata before and after and the files that changed.
func changeOf(id secret.ID, folder string, before, after *secret.Meta, files []fileChange) Change {
	c := Change{ID: id}
	if before != nil {
		c.OldGen, c.OldExpiresAt = before.Gen, before.ExpiresAt
	}
	if after != nil {
		c.Gen, c.ExpiresAt = after.Gen, after.ExpiresAt
	}
	for _, f := range files {
		host, ok := strings.CutPrefix(f.file, path.Join(folder, ownersFolder)+"/")
		host, isJSON := strings.CutSuffix(host, ".json")
		switch {
		case f.file == path.Join(folder, metaFile) && f.status == "D":
			c.Removed = true
		case !ok || !isJSON || secret.ValidateName(host) != nil:
		case f.status == "A":
			c.OwnersAdded = append(c.OwnersAdded, host)
		case f.status == "D":
			c.OwnersRemoved = append(c.OwnersRemoved, host)
		case c.OldGen == c.Gen:
			c.OwnersRewrapped = append(c.OwnersRewrapped, host)
		}
	}
	for _, hosts := range [][]string{c.OwnersAdded, c.OwnersRemoved, c.OwnersRewrapped} {
		slices.Sort(hosts)
	}
	return c
}

// blobs reads files of commits, or blobs by their hashes; nil for what is not there. No name has a newline.
func (s *Store) blobs(ctx context.Context, names []string) ([][]byte, error) {
	if len(names) == 0 {
		return nil, nil
	}
	out, err := s.git(ctx, strings.NewReader(strings.Join(names, "\n")+"\n"), "cat-file", "--batch")
	if err != nil {
		return nil, err
	}
	r := bufio.NewReader(bytes.NewReader(out))
	blobs := make([][]byte, len(names))
	for i := range names {
		line, err := r.ReadString('\n')
		if err != nil {
			return nil, fmt.Errorf("git cat-file ended early: %w", err)
		}
		words := strings.Fields(line)
		size, err := strconv.Atoi(words[len(words)-1])
		if len(words) != 3 || err != nil {
			continue // "NAME missing", or "NAME ambiguous"
		}
		data := make([]byte, size+1)
		if _, err := io.ReadFull(r, data); err != nil {
			return nil, fmt.Errorf("git cat-file ended early: %w", err)
		}
		if words[1] == "blob" {
			blobs[i] = data[:size:size]
		}
	}
	return blobs, nil
}
