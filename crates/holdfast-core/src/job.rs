//! Jobs: what each kind does, step by step, and which moves are allowed.
//!
//! A job is a straight list of steps. Each step runs in one place (the control plane or the agent beside the
//! database), is idempotent, and is recorded before and after it runs. The queue in the catalog holds the state;
//! a step's worker proves by the lease's generation that it is still the one.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::id::{AgentId, JobId, ServiceId};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    Provision,
    Backup,
    Restore,
    /// Bring an instance to the settings that its service now has.
    Configure,
    Stop,
    Start,
    ResetPassword,
    DeleteService,
    /// Remove what no kept restore point needs any more.
    Expire,
    /// Wrap every key and password by a new key-encryption key (KEK). Belongs to no service.
    RotateKeys,
}

/// Where a step runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    ControlPlane,
    Agent,
}

/// All steps of all kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Agent: make and start the instance, its users, its repository.
    CreateInstance,
    /// Control plane: mark the service running and ask for its first backup.
    Activate,
    /// Control plane: the backup's and the next epoch's keys exist, wrapped, in catalog and store.
    PrepareKeys,
    /// Agent: the base backup and its sealed manifest, the manifest last.
    RunBackup,
    /// Control plane: record the facts; from here on it is `completed`.
    RecordBackup,
    /// Agent of the source: cut the log and wait until the store has it.
    ShipLog,
    /// Control plane: decide base, target and expected position, once; stored with the job.
    PlanRestore,
    /// Agent: restore into a new instance, replay, promote, check the position reached.
    RestoreInstance,
    ApplySettings,
    StopInstance,
    StartInstance,
    SetPassword,
    /// Control plane: the new status, or the new password, becomes visible.
    Finish,
    /// Agent: ship the last log, stop the instance and remove its folder.
    RemoveInstance,
    /// Control plane: choose what goes and destroy its keys in the catalog, as a dry run that is stored.
    SelectExpired,
    /// Agent: remove keys, objects and log pieces from the store.
    RemoveExpired,
    /// Control plane: the new KEK is on the disk before anything is wrapped by it.
    MakeKek,
    /// Control plane: wrap by the new KEK what older ones wrap; touches no data.
    RewrapKeys,
    /// Control plane: remove the older KEKs, once nothing anywhere is wrapped by them.
    RetireKeks,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// Waiting for a worker, or for `not_before`.
    Queued,
    /// A worker holds the lease of the current step.
    Running,
    Completed,
    Failed,
    Cancelled,
}

impl JobState {
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

impl JobKind {
    /// Every kind there is, for whoever must treat each of them.
    pub const ALL: [Self; 10] = [
        Self::Provision,
        Self::Backup,
        Self::Restore,
        Self::Configure,
        Self::Stop,
        Self::Start,
        Self::ResetPassword,
        Self::DeleteService,
        Self::Expire,
        Self::RotateKeys,
    ];

    /// The steps, in order.
    #[must_use]
    pub fn steps(self) -> &'static [Step] {
        match self {
            Self::Provision => &[Step::CreateInstance, Step::Activate],
            Self::Backup => &[Step::PrepareKeys, Step::RunBackup, Step::RecordBackup],
            Self::Restore => &[Step::ShipLog, Step::PlanRestore, Step::RestoreInstance, Step::Activate],
            Self::Configure => &[Step::ApplySettings, Step::Finish],
            Self::Stop => &[Step::StopInstance, Step::Finish],
            Self::Start => &[Step::StartInstance, Step::Finish],
            Self::ResetPassword => &[Step::SetPassword, Step::Finish],
            Self::DeleteService => &[Step::RemoveInstance, Step::Finish],
            Self::Expire => &[Step::SelectExpired, Step::RemoveExpired, Step::Finish],
            Self::RotateKeys => &[Step::MakeKek, Step::RewrapKeys, Step::RetireKeks],
        }
    }

    /// How often the step of this index may be tried before the job fails.
    #[must_use]
    pub fn max_attempts(self, step_index: u32) -> u32 {
        let of_kind = match self {
            // A user waits: fail within minutes and say why.
            Self::ResetPassword | Self::Stop | Self::Start => 3,
            // With the store's own patience, over two minutes in which it is away.
            Self::Provision | Self::Restore | Self::Backup | Self::Configure => 6,
            // Until the next round, for backups wait meanwhile.
            Self::Expire => 10,
            // Nobody waits and it must happen.
            Self::DeleteService | Self::RotateKeys => 1000,
        };
        // The last step records what the others did: about an hour, rather than a record that is not true.
        let is_last = step_index as usize + 1 >= self.steps().len();
        if is_last { of_kind.max(20) } else { of_kind }
    }

    /// Whether a step is tried again although its error says that this cannot help: somebody may mend the cause, and a
    /// service must not be half-deleted for ever.
    fn never_gives_up(self) -> bool {
        self == Self::DeleteService
    }

    /// Whether a job that is to begin this step goes on although its end was asked for: the backup lies in the store, and
    /// without its record nobody would know of it.
    #[must_use]
    pub fn only_records(self, step_index: u32) -> bool {
        self == Self::Backup && step_index as usize + 1 >= self.steps().len()
    }

    /// Whether such a job is about one service. The others are about the platform: they wait for no service's jobs,
    /// and none waits for them.
    #[must_use]
    pub fn is_of_a_service(self) -> bool {
        !matches!(self, Self::RotateKeys)
    }
}

impl Step {
    #[must_use]
    pub fn place(self) -> Place {
        match self {
            Self::CreateInstance
            | Self::RunBackup
            | Self::ShipLog
            | Self::RestoreInstance
            | Self::ApplySettings
            | Self::StopInstance
            | Self::StartInstance
            | Self::SetPassword
            | Self::RemoveInstance
            | Self::RemoveExpired => Place::Agent,
            Self::Activate
            | Self::PrepareKeys
            | Self::RecordBackup
            | Self::PlanRestore
            | Self::Finish
            | Self::SelectExpired
            | Self::MakeKek
            | Self::RewrapKeys
            | Self::RetireKeks => Place::ControlPlane,
        }
    }
}

/// A job as the queue holds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    pub id: JobId,
    pub kind: JobKind,
    /// The service that the job is about (a restore: the new one); `None` for a kind that is about none
    /// ([`JobKind::is_of_a_service`]).
    pub service_id: Option<ServiceId>,
    pub state: JobState,
    /// Index into `kind.steps()`; equals their number once completed.
    pub step_index: u32,
    /// Rises with every lease; a worker with an older one is refused (fencing token).
    pub generation: i64,
    /// Tries of the current step so far.
    pub attempt: u32,
    pub leased_by: Option<AgentId>,
    pub lease_until: Option<Timestamp>,
    pub not_before: Timestamp,
    /// What the job was asked to do; fixed at creation. Never holds a secret in the clear.
    pub input: serde_json::Value,
    /// Outputs of the finished steps, by step name; an agent's step's has its [`Phase`]s under `phases`.
    pub outputs: serde_json::Map<String, serde_json::Value>,
    pub progress: Option<Progress>,
    pub error: Option<JobError>,
    pub cancel_requested: bool,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
}

/// How far a running job is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// A few words: `copying files`, `replaying log`.
    pub phase: String,
    pub percent: Option<f64>,
    pub bytes_done: Option<u64>,
    pub bytes_total: Option<u64>,
    pub eta_seconds: Option<u64>,
}

/// A part of a finished step, with the time that it took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// As in [`Progress::phase`].
    pub name: String,
    pub seconds: f64,
}

/// Why a step failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobError {
    /// Machine-readable, `snake_case`.
    pub cause: String,
    /// A sentence that says what happened and what to do.
    pub message: String,
    /// Whether another try can help.
    pub retryable: bool,
}

impl Job {
    /// The step to run next; `None` once all are done.
    #[must_use]
    pub fn step(&self) -> Option<Step> {
        self.kind.steps().get(self.step_index as usize).copied()
    }
}

/// What becomes of a job after its current step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Move {
    /// Go on with the step of this index.
    Next {
        step_index: u32,
    },
    /// The last step is done.
    Complete,
    /// Try the same step again, not before this instant.
    Retry {
        not_before: Timestamp,
    },
    Fail,
}

/// The move after a step succeeded.
#[must_use]
pub fn after_success(kind: JobKind, step_index: u32) -> Move {
    let next = step_index + 1;
    if (next as usize) < kind.steps().len() { Move::Next { step_index: next } } else { Move::Complete }
}

/// The move after a step failed for the `attempt`-th time (counted from 1): retried with growing waits, at most five
/// minutes, until the kind's tries are used up.
#[must_use]
pub fn after_failure(kind: JobKind, step_index: u32, attempt: u32, retryable: bool, now: Timestamp) -> Move {
    let is_worth_it = retryable || kind.never_gives_up();
    if !is_worth_it || attempt >= kind.max_attempts(step_index) {
        return Move::Fail;
    }
    let wait_seconds = 1_i64 << attempt.min(9);
    let wait = SignedDuration::from_secs(wait_seconds.min(300));
    Move::Retry { not_before: now.checked_add(wait).unwrap_or(Timestamp::MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_walks_its_steps_once_each_and_ends_in_the_control_plane() {
        for kind in JobKind::ALL {
            let steps = kind.steps();
            for index in 0..steps.len() {
                let next = u32::try_from(index + 1).expect("few steps");
                let expected =
                    if index + 1 == steps.len() { Move::Complete } else { Move::Next { step_index: next } };
                assert_eq!(after_success(kind, next - 1), expected, "{kind:?}, step {index}");
                assert!(!steps[..index].contains(&steps[index]), "{kind:?} repeats {:?}", steps[index]);
            }
            // What users see changes where the catalog is, after everything else is done.
            assert_eq!(steps.last().map(|step| step.place()), Some(Place::ControlPlane), "{kind:?}");
        }
    }

    #[test]
    fn a_backup_is_recorded_after_it_ran_and_a_restore_planned_after_the_log_was_shipped() {
        let position = |kind: JobKind, step| kind.steps().iter().position(|other| *other == step);
        assert!(position(JobKind::Backup, Step::PrepareKeys) < position(JobKind::Backup, Step::RunBackup));
        assert!(position(JobKind::Backup, Step::RunBackup) < position(JobKind::Backup, Step::RecordBackup));
        assert!(position(JobKind::Restore, Step::ShipLog) < position(JobKind::Restore, Step::PlanRestore));
        assert!(
            position(JobKind::RotateKeys, Step::MakeKek) < position(JobKind::RotateKeys, Step::RewrapKeys)
        );
        assert!(
            position(JobKind::RotateKeys, Step::RewrapKeys) < position(JobKind::RotateKeys, Step::RetireKeks)
        );
        assert!(
            position(JobKind::Expire, Step::SelectExpired) < position(JobKind::Expire, Step::RemoveExpired)
        );
    }

    #[test]
    fn failures_are_retried_with_growing_waits_until_the_tries_are_used_up() {
        let now = Timestamp::UNIX_EPOCH;
        let all =
            JobKind::ALL.into_iter().flat_map(|kind| [(kind, 0), (kind, kind.steps().len() as u32 - 1)]);
        for (kind, step) in all {
            let mut last_wait = SignedDuration::ZERO;
            for attempt in 1..kind.max_attempts(step) {
                let Move::Retry { not_before } = after_failure(kind, step, attempt, true, now) else {
                    panic!("{kind:?} gave up after attempt {attempt}");
                };
                let wait = not_before.duration_since(now);
                assert!(
                    wait > SignedDuration::ZERO && wait >= last_wait,
                    "{kind:?}, attempt {attempt}: {wait}"
                );
                assert!(wait <= SignedDuration::from_mins(5), "{kind:?}, attempt {attempt}: {wait}");
                last_wait = wait;
            }
            assert_eq!(after_failure(kind, step, kind.max_attempts(step), true, now), Move::Fail, "{kind:?}");
            let hopeless = after_failure(kind, step, 1, false, now);
            assert_eq!(hopeless == Move::Fail, kind != JobKind::DeleteService, "{kind:?}");
        }
        assert!(
            JobKind::Restore.max_attempts(3) > JobKind::Restore.max_attempts(2),
            "records are not given up early"
        );
        let at_the_end = after_failure(JobKind::Backup, 0, 1, true, Timestamp::MAX);
        assert_eq!(at_the_end, Move::Retry { not_before: Timestamp::MAX });
    }

    #[test]
    fn only_ended_states_are_terminal() {
        let terminal = [JobState::Completed, JobState::Failed, JobState::Cancelled];
        let open = [JobState::Queued, JobState::Running];
        assert!(terminal.into_iter().all(JobState::is_terminal));
        assert!(!open.into_iter().any(JobState::is_terminal));
    }
}
