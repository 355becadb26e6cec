//! Holdfast on a real S3 server, with a faulty network in between: nothing `completed` that cannot be restored, no log lost,
//! and what goes wrong is said.

mod broken;
mod damage;
mod exact;
mod locked;
mod lost_answers;
mod outage;
mod support;

pub(crate) use outage::long_outage;
