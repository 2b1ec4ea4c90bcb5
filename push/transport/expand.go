package transport

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
)

// operator is what a process of the user's would see of its own surroundings.
type operator struct {
	getenv func(string) string
	home   string
	user   string
	uid    string
	// name is the machine's host name.
	name string
}

func currentOperator() operator {
	o := operator{getenv: os.Getenv, home: os.Getenv("HOME"), user: os.Getenv("USER"), uid: strconv.Itoa(os.Getuid())}
	// ssh takes the account, not the environment; without an account only the environment is left.
	if u, err := user.Current(); err == nil {
		o.user = u.Username
		if u.HomeDir != "" {
			o.home = u.HomeDir
		}
	}
	o.name, _ = os.Hostname()
	return o
}

// expand replaces the tilde, ${VARIABLE} and % tokens in a path of s, as ssh_config(5) has it under TOKENS.
func (o operator) expand(path string, s *settings) (string, error) {
	if path == "~" || strings.HasPrefix(path, "~/") {
		path = o.home + path[1:]
	}
	path, err := o.expandVariables(path)
	if err != nil {
		return "", err
	}
	return o.expandTokens(path, s, o.fileTokens(s))
}

func (o operator) fileTokens(s *settings) map[byte]string {
	alias := s.alias
	if alias == "" {
		alias = s.given.host
	}
	short, _, _ := strings.Cut(o.name, ".")
	return map[byte]string{
		'%': "%", 'd': o.home, 'h': s.hostname, 'i': o.uid, 'k': alias, 'L': short, 'l': o.name,
		'n': s.given.host, 'p': strconv.Itoa(s.port), 'r': s.user, 'u': o.user,
	}
}

func (o operator) expandTokens(text string, s *settings, tokens map[byte]string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '%' {
			b.WriteByte(text[i])
			continue
		}
		i++
		if i == len(text) {
			return "", fmt.Errorf("expand %q: it ends in a single %%", cleanText(text, 256))
		}
		value, known := tokens[text[i]]
		if !known {
			return "", fmt.Errorf("expand %q: token %%%c is not supported", cleanText(text, 256), text[i])
		}
		b.WriteString(value)
	}
	return b.String(), nil
}

func (o operator) expandVariables(path string) (string, error) {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(path, "${")
		b.WriteString(before)
		if !found {
			return b.String(), nil
		}
		name, after, closed := strings.Cut(rest, "}")
		value := o.getenv(name)
		if !closed || value == "" {
			return "", fmt.Errorf("expand %q: the variable %q is not set", cleanText(path, 256), cleanText(name, 256))
		}
		b.WriteString(value)
		path = after
	}
}

// proxyCommand is the shell text of a ProxyCommand with its tokens replaced. The values were
// checked by [endpoint.check], as ssh checks them: a shell reads them.
func (o operator) proxyCommand(s *settings) (string, error) {
	if err := (endpoint{host: s.hostname, user: s.user, port: s.port}).check(); err != nil {
		return "", err
	}
	return o.expandTokens(s.proxyCommand, s, o.fileTokens(s))
}

// agentSocket is the path of the agent that s asks for, empty where there is none.
func (o operator) agentSocket(s *settings) (string, error) {
	switch agent := s.identityAgent; {
	case agent == "none":
		return "", nil
	case agent == "" || agent == "SSH_AUTH_SOCK":
		return o.getenv("SSH_AUTH_SOCK"), nil
	case agent[0] == '$' && !strings.HasPrefix(agent, "${"):
		return o.getenv(agent[1:]), nil
	default:
		return o.expand(agent, s)
	}
}

// splitPaths splits what `ssh -G` prints for a list of files. It separates them by spaces and does not quote them,
// so a path with spaces is recognised by its existence.
func splitPaths(value string, exists func(string) bool) []string {
	words := strings.Split(value, " ")
	var out []string
	for i := 0; i < len(words); {
		n := 1
		for k := len(words) - i; k > 1; k-- {
			if exists(strings.Join(words[i:i+k], " ")) {
				n = k
				break
			}
		}
		path := unquote(strings.Join(words[i:i+n], " "))
		i += n
		if path != "" && path != "none" && path != os.DevNull {
			out = append(out, path)
		}
	}
	return out
}

func fileExists(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.IsDir()
}

// knownHostsFiles are the existing known_hosts files of s, the user's first.
func (o operator) knownHostsFiles(s *settings) ([]string, error) {
	var out []string
	for _, list := range []string{s.userKnownHosts, s.globalKnownHosts} {
		for _, path := range splitPaths(list, fileExists) {
			path, err := o.expand(path, s)
			if err != nil {
				return nil, err
			}
			if fileExists(path) {
				out = append(out, path)
			}
		}
	}
	return out, nil
}

// fallbackSettings stand in where OpenSSH is not installed: what its defaults would be.
func (o operator) fallbackSettings(e endpoint) settings {
	s := settings{
		given: e, hostname: e.host, user: e.user, port: e.port, network: "tcp", pubkeyAuth: true,
		userKnownHosts:   filepath.Join(o.home, ".ssh", "known_hosts"),
		globalKnownHosts: "/etc/ssh/ssh_known_hosts",
	}
	if s.user == "" {
		s.user = o.user
	}
	if s.port == 0 {
		s.port = defaultPort
	}
	for _, name := range []string{"id_rsa", "id_ecdsa", "id_ed25519"} {
		s.identityFiles = append(s.identityFiles, filepath.Join(o.home, ".ssh", name))
	}
	return s
}
