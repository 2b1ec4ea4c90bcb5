package guard

// recover goes on where a guard was killed, or where the host went down. What had been intended and perhaps done is done again.
func (m *machine) recover(e Event) {
	if m.Phase.Ended() {
		m.do(Finish)
		return
	}
	if e.BootID != m.BootID {
		m.BootID, m.NewBoot = e.BootID, true
		m.afterBoot(e)
		return
	}
	switch m.Phase {
	case Prepared:
		m.begin()
	case Switching:
		switch {
		case e.Result:
			m.workerEnded(e)
		case !e.Running:
			m.fail("the activation has vanished")
		}
	case Committing, RollingBack:
		m.resumeSteps(e)
	default:
		m.again()
	}
}

// again repeats what its phase has under way, with the deadline that it had.
func (m *machine) again() {
	switch m.Phase {
	case Judging:
		m.do(Judge)
	case AwaitConfirm:
		m.do(OpenConfirm)
	case Staging:
		m.do(Stage)
	case Rebooting:
		m.do(RebootHost)
	case RollbackReboot:
		m.unstage()
		m.do(RebootHost)
	case Verifying:
		m.unstage()
		m.do(VerifyOld)
	}
}

// resumeSteps goes on with a commit, or with its undoing.
func (m *machine) resumeSteps(e Event) {
	committing := m.Phase == Committing
	switch m.State.Step {
	case CommitProfile:
		if committing {
			m.effects = append(m.effects, Effect{Kind: SetProfile, System: m.New})
		} else {
			m.do(RestoreProfile)
		}
	case CommitVerify:
		m.do(VerifyNew)
	default:
		switch {
		case e.Result:
			m.workerEnded(e)
		case e.Running:
		case committing:
			m.run(m.New, VerbBoot)
		case m.State.Step == CommitBoot:
			m.undoBoot()
		default:
			m.activateOld()
		}
	}
}

// afterBoot: before a confirmation the boot default was the old system at every moment, so that is what runs, unless the new one was to be
// booted once. Nothing that ran before the boot runs now.
func (m *machine) afterBoot(e Event) {
	isNew := e.Seen.Booted == m.New
	was := m.Booted
	switch m.Phase {
	case Staging, Staged, Rebooting:
		if isNew {
			m.Booted = true
			m.judge()
			return
		}
		m.blame("the host has booted the old system")
		m.verify()
	case Committing:
		if isNew {
			m.commit()
			return
		}
		m.blame("the host went down while the new system was being made its boot default")
		m.Tries++
		m.enter(RollingBack, m.Policy.Rollback)
		m.State.Step = CommitProfile
		m.do(RestoreProfile)
	case RollingBack, RollbackFailed:
		if m.Touched && !was {
			m.rollBack()
			return
		}
		m.verify()
	case RollbackReboot, Verifying:
		m.verify()
	default:
		m.blame("the host went down before the new system was confirmed")
		m.verify()
	}
}

func (m *machine) blame(reason string) {
	if m.Reason == "" {
		m.Reason = reason
	}
}
