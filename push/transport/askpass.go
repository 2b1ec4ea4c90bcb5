package transport

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// askScript is what ssh runs to ask for something (SSH_ASKPASS, ssh(1)). Question and answer go
// through named pipes in our folder, so that no secret is ever an argument, a variable or a file.
const askScript = `#!/bin/sh
# ssh runs this to ask a person for something; the question goes to the process that started ssh.
dir=${0%/*}
printf '%s %s\0' "${SSH_ASKPASS_PROMPT:-secret}" "$1" >"$dir/question"
[ "${SSH_ASKPASS_PROMPT:-}" = none ] && exit 0
IFS= read -r answer <"$dir/answer" || exit 1
case $answer in
+*) printf '%s\n' "${answer#+}" ;;
*) exit 1 ;;
esac
`

// answers remembers passphrases for the time of a run, so that a key that opens many hosts is asked for once. Nothing else is
// remembered: a password belongs to one host, a code is good for one login.
type answers struct {
	prompt func(ctx context.Context, prompt string) ([]byte, error)
	// asking is held while a person is asked.
	asking chan struct{}

	mu    sync.Mutex
	known map[string]string
}

func newAnswers(prompt func(context.Context, string) ([]byte, error)) *answers {
	return &answers{prompt: prompt, asking: make(chan struct{}, 1), known: map[string]string{}}
}

// answer asks a person, or remembers. A second question of one process about the same file means that the first answer was wrong.
func (a *answers) answer(ctx context.Context, question string, again bool) (string, error) {
	select {
	case a.asking <- struct{}{}:
		defer func() { <-a.asking }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	// OpenSSH's words, in sshconnect2.c (load_identity_file).
	keep := strings.HasPrefix(question, "Enter passphrase for key ")
	a.mu.Lock()
	known, ok := a.known[question]
	a.mu.Unlock()
	if keep && ok && !again {
		return known, nil
	}
	secret, err := a.prompt(ctx, question)
	if err != nil {
		return "", err
	}
	text := string(secret)
	clear(secret)
	if strings.ContainsAny(text, "\n\x00") {
		return "", fmt.Errorf("an answer of several lines cannot be given to ssh")
	}
	if keep {
		a.mu.Lock()
		a.known[question] = text
		a.mu.Unlock()
	}
	return text, nil
}

// maxQuestion bounds what ssh may ask, in bytes.
const maxQuestion = 4096

// touchTime is how long a person may take to touch a token; OpenSSH does not say when that is done.
const touchTime = time.Minute

// answerQuestions makes the folder's askpass work until the returned function is called.
func (m *master) answerQuestions(ctx context.Context, dog *watchdog) (stop func(), err error) {
	if err := os.WriteFile(m.path("ask"), []byte(askScript), 0o700); err != nil {
		return nil, err
	}
	var pipes []*os.File
	for _, name := range []string{"question", "answer"} {
		if err = syscall.Mkfifo(m.path(name), 0o600); err != nil {
			break
		}
		var pipe *os.File
		// Opened for both directions, so that neither opening nor reading ever sees an end while a script comes and goes.
		if pipe, err = os.OpenFile(m.path(name), os.O_RDWR|syscall.O_NONBLOCK, 0); err != nil {
			break
		}
		pipes = append(pipes, pipe)
	}
	closeAll := func() {
		for _, pipe := range pipes {
			_ = pipe.Close()
		}
	}
	if err != nil {
		closeAll()
		return nil, fmt.Errorf("make pipes for ssh's questions: %w", err)
	}
	done := make(chan struct{})
	life, cancel := context.WithCancel(ctx)
	go func() {
		defer close(done)
		m.serveQuestions(life, dog, pipes[0], pipes[1])
	}()
	return func() {
		cancel()
		closeAll()
		<-done
	}, nil
}

func (m *master) serveQuestions(ctx context.Context, dog *watchdog, questions io.Reader, reply io.Writer) {
	in := bufio.NewReaderSize(questions, maxQuestion)
	seen := map[string]bool{}
	for {
		raw, err := in.ReadSlice(0)
		if err != nil {
			return
		}
		kind, question, _ := strings.Cut(strings.TrimSuffix(string(raw), "\x00"), " ")
		question = cleanText(question, maxQuestion)
		line := "-\n"
		switch kind {
		case "none":
			dog.extend(touchTime)
			if m.dialer.options.Banner != nil {
				m.dialer.options.Banner(m.host, question)
			}
			continue
		case "secret":
			dog.human(func() {
				if text, err := m.dialer.answers.answer(ctx, question, seen[question]); err == nil {
					line = "+" + text + "\n"
				}
			})
			seen[question] = true
		}
		// A yes-or-no question stays unanswered: nothing is agreed to silently.
		if _, err := io.WriteString(reply, line); err != nil {
			return
		}
	}
}
