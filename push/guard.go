package push

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"fleet/closure/storepath"
	"fleet/push/proto"
	"fleet/push/transport"
)

const (
	// maxAnswer bounds the guard's answer, in bytes.
	maxAnswer = 64 << 10
	// maxTransactions and maxGenerations bound what a host lists.
	maxTransactions, maxGenerations = 256, 4096
)

// Nonce returns what a confirmation of the transaction has to name, while the transaction waits for one. It takes an agent that is root.
func (s *Session) Nonce(ctx context.Context, txn string) (string, error) {
	var result proto.NonceResult
	if err := s.call(ctx, proto.MethodNonce, proto.TxnRequest{Txn: txn}, &result); err != nil {
		return "", err
	}
	if result.Nonce == "" || len(result.Nonce) > 1024 {
		return "", fmt.Errorf("confirm %s on %q: the agent gives no nonce that can be used", txn, s.spec.Target.Host)
	}
	return result.Nonce, nil
}

// Confirm sends the confirmation of a transaction to its guard, through a process of the login user on this session's connection, which has
// to be younger than the switch. It returns once the guard has taken it; how the commit went is known by [Session.Watch]. An answer that is no
// is an [*AgentError], with [proto.CodeTooLate] where the guard does not wait any more.
func (s *Session) Confirm(ctx context.Context, txn, nonce string) error {
	err := s.resume(ctx, func(ctx context.Context, l *link) (bool, error) { return false, l.confirm(ctx, txn, nonce) })
	return s.answer("guard.confirm", err)
}

// confirm makes one exchange with the guard's socket.
func (l *link) confirm(ctx context.Context, txn, nonce string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, l.s.c.Timeouts.withDefaults().Attach, errTimeout)
	defer cancel()
	ch, err := l.conn.Start(ctx, transport.Quote(l.agent.exe, "attach", "--guard", txn), transport.ChannelOptions{})
	if err != nil {
		return err
	}
	defer ch.Close() // what it said was read
	stop := context.AfterFunc(ctx, func() { ch.Close() })
	defer stop()
	errs := drain(ch.Stderr())
	line, err := json.Marshal(proto.ConfirmRequest{Nonce: nonce})
	if err != nil {
		return err
	}
	// Its input stays open: the command ends where either side has ended. One that does not read it has said something else.
	_, err = ch.Write(append(line, '\n'))
	said, readErr := bufio.NewReader(io.LimitReader(ch, maxAnswer)).ReadBytes('\n')
	if len(said) > 0 {
		return confirmAnswer(said)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	end := ch.Wait()
	if _, exited := errors.AsType[*transport.ExitError](end); end == nil || exited {
		return fmt.Errorf("confirm %s on %q: the guard gave no answer: %s", txn, l.s.spec.Target.Host, errs())
	}
	if end != nil {
		return end
	}
	return errors.Join(err, readErr)
}

func confirmAnswer(said []byte) error {
	var answer proto.ConfirmAnswer
	if err := json.Unmarshal(said, &answer); err != nil {
		return fmt.Errorf("read the guard's answer: %w", err)
	}
	switch {
	case answer.Confirmed:
		return nil
	case answer.Error != nil:
		return answer.Error
	}
	return errors.New("the guard does not take the confirmation, and does not say why")
}

// Transactions returns what the host remembers of its transactions, newest first.
func (s *Session) Transactions(ctx context.Context) ([]proto.TxnStatus, error) {
	var result proto.TransactionsResult
	if err := s.call(ctx, proto.MethodTransactions, nil, &result); err != nil {
		return nil, err
	}
	var list []proto.TxnStatus
	for _, status := range result.Transactions[:min(len(result.Transactions), maxTransactions)] {
		list = append(list, cleanStatus(status))
	}
	return list, nil
}

// Generations returns the generations of the host's system profile that can be gone back to, newest first.
func (s *Session) Generations(ctx context.Context) ([]proto.Generation, error) {
	var result proto.GenerationsResult
	if err := s.call(ctx, proto.MethodGenerations, nil, &result); err != nil {
		return nil, err
	}
	var list []proto.Generation
	for _, g := range result.Generations[:min(len(result.Generations), maxGenerations)] {
		if _, err := storepath.Parse(g.Toplevel); err != nil || g.Number < 1 {
			continue // it cannot be switched to
		}
		g.Since = oneLine(g.Since)
		list = append(list, g)
	}
	return list, nil
}

// Check has the host make a health check once. The problem is empty where it went well; the error is for one that was not made.
func (s *Session) Check(ctx context.Context, request proto.CheckRequest) (problem string, err error) {
	var result proto.CheckResult
	err = s.call(ctx, proto.MethodCheck, request, &result)
	return oneLine(result.Problem), err
}

// Unreachable says whether err is about the way to a host, and not about the host: another way, or another time, may do.
func Unreachable(err error) bool {
	_, lost := errors.AsType[*LostError](err)
	return lost || isTransient(err)
}

// RefusedError says that something speaks against an activation. Nothing was changed on the host.
type RefusedError struct {
	Host     string
	Findings []proto.Finding
}

func refusedError(host string, answer *proto.Error) *RefusedError {
	e := &RefusedError{Host: host}
	var data proto.PreflightData
	if json.Unmarshal(answer.Data, &data) == nil {
		for _, f := range data.Findings[:min(len(data.Findings), maxFindings)] {
			e.Findings = append(e.Findings, proto.Finding{Check: oneLine(f.Check), Problem: oneLine(f.Problem), Remedy: oneLine(f.Remedy), Fixed: f.Fixed})
		}
	}
	if len(e.Findings) == 0 {
		e.Findings = []proto.Finding{{Check: "preflight", Problem: oneLine(answer.Message), Remedy: oneLine(answer.Remedy), Fixed: true}}
	}
	return e
}

func (e *RefusedError) Error() string {
	msg := fmt.Sprintf("activate on %q: refused before anything was changed", e.Host)
	for _, f := range e.Findings {
		msg += fmt.Sprintf("\n%s: %s", f.Check, f.Problem)
	}
	return msg
}

// Hint says what mends each finding, and how those that do not have to be mended are skipped.
func (e *RefusedError) Hint() string {
	hint, skip := "", ""
	for _, f := range e.Findings {
		if f.Remedy != "" {
			hint += fmt.Sprintf("%s says of %s: %s; ", e.Host, f.Check, f.Remedy)
		}
		// What stands in a command that a person is told to run is a plain name.
		if name := cleanTxn(f.Check); name != "" && !f.Fixed {
			skip += " --skip-check " + name
		}
	}
	switch {
	case skip != "":
		return hint + "to go on all the same: fleet deploy" + skip
	case hint != "":
		return hint[:len(hint)-2]
	}
	return fmt.Sprintf("fleet status --on %s shows how the host stands", e.Host)
}
