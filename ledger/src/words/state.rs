//! The states of a key version and the steps between them, as one table.

use std::fmt;
use std::str::FromStr;

/// Where a key version is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Made, detects, does not mark yet.
    Pending,
    /// Marks and detects; at most one a ring.
    Active,
    /// Marked once; detects.
    VerifyOnly,
    /// Neither marks nor detects; can come back.
    Disabled,
    /// Others may hold it: detects only when asked to, and results say so.
    Compromised,
    /// Neither marks nor detects; destroyed when its time comes, unless cancelled.
    PendingDestroy,
    /// Its master is gone; the tombstone stays.
    Destroyed,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::Active,
        Self::VerifyOnly,
        Self::Disabled,
        Self::Compromised,
        Self::PendingDestroy,
        Self::Destroyed,
    ];

    /// The name in the store and in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::VerifyOnly => "verify_only",
            Self::Disabled => "disabled",
            Self::Compromised => "compromised",
            Self::PendingDestroy => "pending_destroy",
            Self::Destroyed => "destroyed",
        }
    }

    /// Whether text is marked with it.
    pub fn marks(self) -> bool {
        self == Self::Active
    }

    /// Whether text is searched for it without being asked.
    ///
    /// Pending counts: another server may have seen it become active, and marked with it, a moment earlier.
    pub fn detects(self) -> bool {
        matches!(self, Self::Pending | Self::Active | Self::VerifyOnly)
    }

    /// Whether servers hold its master in memory.
    pub fn loaded(self) -> bool {
        self.detects() || self == Self::Compromised
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for State {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|state| state.name() == text).ok_or(())
    }
}

/// What can be done to a key version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// By the end of a rotation only.
    Activate,
    /// By the end of a rotation only: the one that was active.
    Supersede,
    /// Takes it out of detection.
    Disable,
    /// Takes it back into detection.
    Enable,
    /// Others may hold it.
    Compromise,
    /// Sets the time of its destruction.
    ScheduleDestroy,
    /// Goes back to the state before.
    CancelDestroy,
    /// When its time has come.
    Destroy,
}

/// Where a step leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// This state.
    To(State),
    /// The state that was kept when destruction was scheduled.
    Back,
}

/// **The state machine**: each step, the states it starts from, where it leads. Nothing else is possible.
pub const TABLE: [(Step, &[State], Goal); 8] = [
    (Step::Activate, &[State::Pending], Goal::To(State::Active)),
    (Step::Supersede, &[State::Active], Goal::To(State::VerifyOnly)),
    (Step::Disable, &[State::VerifyOnly], Goal::To(State::Disabled)),
    (Step::Enable, &[State::Disabled], Goal::To(State::VerifyOnly)),
    (
        Step::Compromise,
        &[State::Pending, State::Active, State::VerifyOnly, State::Disabled],
        Goal::To(State::Compromised),
    ),
    (
        Step::ScheduleDestroy,
        &[State::Pending, State::VerifyOnly, State::Disabled, State::Compromised],
        Goal::To(State::PendingDestroy),
    ),
    (Step::CancelDestroy, &[State::PendingDestroy], Goal::Back),
    (Step::Destroy, &[State::PendingDestroy], Goal::To(State::Destroyed)),
];

impl Step {
    /// The name in answers and in the audit.
    pub fn name(self) -> &'static str {
        match self {
            Self::Activate => "activate",
            Self::Supersede => "supersede",
            Self::Disable => "disable",
            Self::Enable => "enable",
            Self::Compromise => "compromise",
            Self::ScheduleDestroy => "schedule_destroy",
            Self::CancelDestroy => "cancel_destroy",
            Self::Destroy => "destroy",
        }
    }

    fn row(self) -> (&'static [State], Goal) {
        // The table has every step: a unit test walks them.
        TABLE
            .into_iter()
            .find(|(step, ..)| *step == self)
            .map_or((&[], Goal::Back), |(_, from, goal)| (from, goal))
    }

    /// Takes the step from `state`; `before` is what was kept when destruction was scheduled.
    pub fn from(self, state: State, before: Option<State>) -> Result<State, Refused> {
        let (starts, goal) = self.row();
        let refused = || Refused { step: self, state, needs: starts.to_vec(), possible: possible(state) };
        if !starts.contains(&state) {
            return Err(refused());
        }
        match goal {
            Goal::To(state) => Ok(state),
            Goal::Back => before.ok_or_else(refused),
        }
    }
}

/// The steps that a state allows.
pub fn possible(state: State) -> Vec<Step> {
    TABLE.into_iter().filter(|(_, from, _)| from.contains(&state)).map(|(step, ..)| step).collect()
}

/// A step that the state does not allow: names the state, and what would be allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What was asked.
    pub step: Step,
    /// The state it was asked in.
    pub state: State,
    /// The states in which it can be asked.
    pub needs: Vec<State>,
    /// The steps possible in the present state.
    pub possible: Vec<Step>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let states: Vec<_> = self.needs.iter().map(|state| state.name()).collect();
        let steps: Vec<_> = self.possible.iter().map(|step| step.name()).collect();
        write!(f, "the version is {}: {} needs {}", self.state, self.step.name(), states.join(" or "))?;
        match (steps.is_empty(), self.state) {
            (true, _) => f.write_str("; nothing more can be done with it"),
            (false, State::Active) => f.write_str("; rotate the ring first, or compromise"),
            (false, _) => write!(f, "; allowed now: {}", steps.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: [Step; 8] = [
        Step::Activate,
        Step::Supersede,
        Step::Disable,
        Step::Enable,
        Step::Compromise,
        Step::ScheduleDestroy,
        Step::CancelDestroy,
        Step::Destroy,
    ];

    #[test]
    fn the_table_has_each_step_once() {
        for step in STEPS {
            assert_eq!(TABLE.iter().filter(|row| row.0 == step).count(), 1, "{}", step.name());
        }
    }

    #[test]
    fn the_end_is_the_end_and_every_other_state_leads_there() {
        assert_eq!(possible(State::Destroyed), []);
        for start in State::ALL {
            let mut reached = vec![start];
            let mut at = 0;
            while let Some(state) = reached.get(at).copied() {
                for (_, from, goal) in TABLE {
                    if let (true, Goal::To(to)) = (from.contains(&state), goal)
                        && !reached.contains(&to)
                    {
                        reached.push(to);
                    }
                }
                at += 1;
            }
            assert!(reached.contains(&State::Destroyed), "{start} never ends");
        }
    }

    #[test]
    fn nothing_returns_to_active_and_an_active_key_is_never_destroyed() {
        let into_active: Vec<_> =
            TABLE.iter().filter(|row| row.2 == Goal::To(State::Active)).flat_map(|row| row.1).collect();
        assert_eq!(into_active, [&State::Pending]);
        assert!(Step::ScheduleDestroy.from(State::Active, None).is_err());
        assert!(Step::Destroy.from(State::Active, None).is_err());
    }

    #[test]
    fn refusals_name_the_state_and_what_is_allowed() {
        let cases = [
            (
                Step::Disable,
                State::Active,
                "the version is active: disable needs verify_only; rotate the ring first, or compromise",
            ),
            (
                Step::Enable,
                State::VerifyOnly,
                "the version is verify_only: enable needs disabled; allowed now: disable, compromise, schedule_destroy",
            ),
            (
                Step::CancelDestroy,
                State::Destroyed,
                "the version is destroyed: cancel_destroy needs pending_destroy; nothing more can be done with it",
            ),
        ];
        for (step, state, message) in cases {
            assert_eq!(step.from(state, None).unwrap_err().to_string(), message);
        }
    }
}
