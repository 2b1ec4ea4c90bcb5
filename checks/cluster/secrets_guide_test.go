//go:build cluster

package cluster

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// guideBlock is a fenced block of a guide.
type guideBlock struct{ language, text string }

// guideBlocks reads the fenced blocks of a Markdown file.
func guideBlocks(t *testing.T, path string) []guideBlock {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var blocks []guideBlock
	for _, match := range regexp.MustCompile("(?ms)^```([a-z]+)\n(.*?)^```$").FindAllStringSubmatch(string(data), -1) {
		blocks = append(blocks, guideBlock{match[1], match[2]})
	}
	return blocks
}

// A console block's lines are commands; what follows three spaces is a remark, which may say the exit code. A Nix block that begins with the name of a
// file is that file.
func TestTheGuideToSecretsWorksAsItIsWritten(t *testing.T) {
	hosts := takeSome(t, 2)
	p := newProject(t, map[string]hostSpec{
		"web-1": {Deploy: map[string]any{"address": hosts[0].Spec.Address}},
		"db-1":  {Deploy: map[string]any{"address": hosts[1].Spec.Address}},
	})
	p.sh(`cd "$1" && echo '{ lib, ... }: { imports = lib.filter builtins.pathExists [ ./secrets.nix ./more-owners.nix ]; }' >more.nix`)
	exit := regexp.MustCompile(` {3,}#.*exit code ([0-9]+)`)
	commands := 0
	for _, block := range guideBlocks(t, "../../docs/guide/secrets.md") {
		first, _, _ := strings.Cut(block.text, "\n")
		file, isFile := strings.CutPrefix(first, "# ")
		switch {
		case block.language == "nix" && isFile:
			if err := p.operator.PutReader(p.ctx(), strings.NewReader(block.text), p.dir+"/"+file, 0o644); err != nil {
				t.Fatal(err)
			}
			p.sh(`cd "$1" && git add --all`)
		case block.language == "console":
			for line := range strings.Lines(block.text) {
				command, ok := strings.CutPrefix(line, "$ ")
				if !ok {
					t.Fatalf("the guide has a console line that is no command: %q", line)
				}
				code := 0
				if match := exit.FindStringSubmatch(line); match != nil {
					code, _ = strconv.Atoi(match[1])
				}
				commands++
				p.run("bash", "-c", command).want(code) // the remark is one of the shell's, too
			}
		}
	}
	if commands < 20 {
		t.Errorf("the guide has %d commands", commands)
	}
	if got := on(t, hosts[0], "stat --format %U:%a /run/secrets/session/secret"); got != "shop:440" {
		t.Errorf("the session's secret is %s", got)
	}
}
