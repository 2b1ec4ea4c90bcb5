package agent

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"fleet/push/guard"
	"fleet/push/proto"
)

// transaction returns the status of a transaction, of the newest one where txn is empty.
func (s *session) transaction(txn string) (proto.TxnStatus, error) {
	if txn == "" {
		newest, err := s.host.newest()
		if err != nil {
			return proto.TxnStatus{}, err
		}
		txn = newest
	}
	return s.host.status(txn)
}

// listTransactions returns all transactions, newest first.
func (s *session) listTransactions() (proto.TransactionsResult, error) {
	ids, err := s.host.transactions()
	if err != nil {
		return proto.TransactionsResult{}, err
	}
	slices.Reverse(ids)
	result := proto.TransactionsResult{Transactions: []proto.TxnStatus{}}
	for _, id := range ids {
		if st, err := s.host.status(id); err == nil {
			result.Transactions = append(result.Transactions, st)
		}
	}
	return result, nil
}

// listGenerations returns the generations of the system profile, newest first.
func (s *session) listGenerations() (proto.GenerationsResult, error) {
	all, err := s.host.generations()
	if err != nil {
		return proto.GenerationsResult{}, err
	}
	current := s.host.systems().generation
	result := proto.GenerationsResult{Generations: []proto.Generation{}}
	for number, toplevel := range all {
		g := proto.Generation{Number: number, Toplevel: toplevel, Current: number == current}
		if info, err := os.Lstat(s.host.generationLink(number)); err == nil {
			g.Since = info.ModTime().UTC().Format(time.RFC3339)
		}
		g.Specialisations = specialisations(toplevel)
		result.Generations = append(result.Generations, g)
	}
	slices.SortFunc(result.Generations, func(a, b proto.Generation) int { return b.Number - a.Number })
	return result, nil
}

func specialisations(toplevel string) []string {
	entries, err := os.ReadDir(toplevel + "/specialisation")
	if err != nil {
		return nil
	}
	var names []string
	for _, entry := range entries {
		if plainName(entry.Name()) {
			names = append(names, entry.Name())
		}
	}
	return names
}

// confirm returns once the transaction is done, as one that confirms itself is.
func (s *session) confirm(ctx context.Context, txn string) (proto.TxnStatus, error) {
	for {
		st, err := s.transaction(txn)
		if err != nil || st.State.Done() {
			return st, err
		}
		txn = st.Txn
		select {
		case <-time.After(pollInterval):
		case <-ctx.Done():
			return st, context.Cause(ctx)
		}
	}
}

// abort asks for the old system, and waits for it.
func (s *session) abort(ctx context.Context, req proto.TxnRequest) (proto.TxnStatus, error) {
	st, err := s.transaction(req.Txn)
	if err != nil {
		return st, err
	}
	if st.Action == proto.ActionDryActivate {
		err := s.host.Units.Stop(ctx, workerUnit(st.Txn, 1))
		if err != nil {
			return st, err
		}
		return s.confirm(ctx, st.Txn)
	}
	if st.State.Done() && st.State != proto.TxnStaged {
		return st, nil
	}
	if !s.host.Root() {
		return st, forbiddenNotRoot()
	}
	reason := oneLine(req.Reason)
	if reason == "" {
		reason = "an operator"
	}
	if err := s.host.abortTxn(ctx, st.Txn, reason); err != nil {
		return st, err
	}
	for {
		now, err := s.host.status(st.Txn)
		if err != nil || now.State.Done() && now.State != proto.TxnStaged || now.State == proto.TxnRollbackFailed {
			return now, err
		}
		select {
		case <-time.After(pollInterval):
		case <-ctx.Done():
			return now, context.Cause(ctx)
		}
	}
}

// nonce tells what a confirmation has to name. Whoever gets it has become root over a connection made after the switch, in an agent that was started after it,
// with a store that answers: the host can be deployed to again.
func (s *session) nonce(ctx context.Context, req proto.TxnRequest) (proto.NonceResult, error) {
	h := s.host
	if !h.Root() {
		return proto.NonceResult{}, forbiddenNotRoot()
	}
	if !txnForm().MatchString(req.Txn) {
		return proto.NonceResult{}, proto.Errorf(proto.CodeUsage, "%.60q is no transaction", req.Txn)
	}
	o, e, err := h.readTxn(req.Txn)
	if errors.Is(err, os.ErrNotExist) {
		return proto.NonceResult{}, proto.Errorf(proto.CodeNotFound, "transaction %s is not known on this host", req.Txn)
	}
	if err != nil {
		return proto.NonceResult{}, err
	}
	if e.State.Phase != guard.AwaitConfirm {
		return proto.NonceResult{}, proto.Errorf(proto.CodeTooLate, "transaction %s does not wait for a confirmation: it is %q", req.Txn, e.State.Phase)
	}
	if s.born < e.Switched {
		e := proto.Errorf(proto.CodeForbidden, "this session began before the new system stood, so it does not prove that the host can still be reached")
		e.Remedy = "connect anew: fleet confirm"
		return proto.NonceResult{}, e
	}
	toplevel, err := parsePaths([]string{o.Toplevel})
	if err != nil {
		return proto.NonceResult{}, err
	}
	if valid, err := s.valid(ctx, toplevel[0]); err != nil || !valid {
		return proto.NonceResult{}, errors.Join(err, errors.New("the host's store does not answer as it should"))
	}
	return s.awaitNonce(ctx, req.Txn)
}

// awaitNonce waits for the moment in which the guard takes confirmations; it comes just after the state.
func (s *session) awaitNonce(ctx context.Context, txn string) (proto.NonceResult, error) {
	for {
		text, err := readBounded(s.host.txnDir(txn)+"/"+nonceName, 256)
		if err == nil && len(text) > 0 {
			return proto.NonceResult{Nonce: string(text)}, nil
		}
		if _, e, err := s.host.readTxn(txn); err != nil || e.State.Phase != guard.AwaitConfirm {
			return proto.NonceResult{}, errors.Join(err, proto.Errorf(proto.CodeTooLate, "transaction %s does not wait for a confirmation any more", txn))
		}
		select {
		case <-time.After(guardPoll):
		case <-ctx.Done():
			return proto.NonceResult{}, context.Cause(ctx)
		}
	}
}
