package guard

// fail turns back, or leaves things as they are where that was asked for.
func (m *machine) fail(reason string) {
	if m.Reason == "" {
		m.Reason = reason
	}
	m.leave()
	if m.Policy.NoRollback {
		m.end(LeftAsIs)
		return
	}
	if nothingRuns(m.Phase) {
		m.verify()
		return
	}
	m.rollBack()
}

// leave ends what the present phase has under way.
func (m *machine) leave() {
	switch m.Phase {
	case Switching:
		m.stop()
	case Committing:
		if m.State.Step == CommitBoot {
			m.stop()
		}
	case AwaitConfirm:
		m.do(CloseConfirm)
	}
}

// nothingRuns says whether the new system was not activated in a phase.
func nothingRuns(p Phase) bool {
	return p == Prepared || p == Staging || p == Staged || p == Rebooting
}

// verify looks whether the host is as it was, after taking back what was prepared for the next boot.
func (m *machine) verify() {
	m.enter(Verifying, m.Policy.Rollback)
	m.State.Step = ""
	m.unstage()
	m.do(VerifyOld)
}

// unstage keeps a staged system from being booted.
func (m *machine) unstage() {
	if m.Touched && (m.Action == Boot || m.Action == Reboot) {
		m.do(Unstage)
	}
}

// rollBack is the beginning of the ladder: R1, or R2 at once where the new system was booted and nothing of it is in the boot default.
func (m *machine) rollBack() {
	if m.Booted && !m.Confirmed && m.mayReboot() {
		m.reboot()
		return
	}
	m.Tries++
	m.enter(RollingBack, m.Policy.Rollback)
	if m.Touched {
		m.State.Step = CommitProfile
		m.do(RestoreProfile)
		return
	}
	m.activateOld()
}

// undoBoot has the old system's own program write boot entries and default.
func (m *machine) undoBoot() {
	m.enter(RollingBack, m.Policy.Rollback)
	m.State.Step = CommitBoot
	m.run(m.oldDefault(), VerbBoot)
}

// oldDefault is the toplevel that booted by default.
func (m *machine) oldDefault() string {
	if m.Old.BootDefault != "" {
		return m.Old.BootDefault
	}
	return m.Old.Profile
}

// oldSystem is what should run again.
func (m *machine) oldSystem() string {
	if m.NewBoot || m.Old.Current == "" {
		return m.oldDefault()
	}
	return m.Old.Current
}

func (m *machine) activateOld() {
	m.enter(RollingBack, m.Policy.Rollback)
	m.State.Step = ""
	m.run(m.oldSystem(), VerbTest)
}

// oldActivated: an activation that has come to its end is looked at, whatever it says of units and snippets that may have failed before, too.
func (m *machine) oldActivated(e Event) {
	switch e.Exit {
	case exitOK, exitUnitsFailed, exitActivation:
		m.verify()
	default:
		m.Trouble = exitReason("switch-to-configuration test of the old system", e)
		m.climb()
	}
}

func (m *machine) verified(e Event) {
	if e.OK {
		m.end(RolledBack)
		return
	}
	m.trouble(e)
	m.notVerified()
}

// notVerified: what was never tried is tried first.
func (m *machine) notVerified() {
	if m.Tries == 0 {
		m.rollBack()
		return
	}
	m.climb()
}

func (m *machine) trouble(e Event) {
	if !e.OK && e.Detail != "" {
		m.Trouble = e.Detail
	}
}

// climb takes the next rung of the ladder.
func (m *machine) climb() {
	if m.mayReboot() {
		m.reboot()
		return
	}
	m.giveUpForNow()
}

// mayReboot: once in a transaction, or hosts would boot in a circle.
func (m *machine) mayReboot() bool {
	switch {
	case m.Rebooted:
		return false
	case m.Policy.Reboot == RebootAlways:
		return true
	}
	return m.Policy.Reboot == RebootIfSafe && m.Policy.RebootSafe
}

func (m *machine) reboot() {
	m.Rebooted = true
	m.enter(RollbackReboot, rebootPatience)
	m.State.Step = ""
	m.unstage()
	m.do(RebootHost)
}

// giveUpForNow waits longer each time.
func (m *machine) giveUpForNow() {
	pause := firstPause
	for range m.Tries - 1 {
		if pause *= 2; pause >= lastPause {
			pause = lastPause
			break
		}
	}
	m.enter(RollbackFailed, pause)
	m.State.Step = ""
}
