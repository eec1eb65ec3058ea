//! The process as a service: systemd, its rights, and its successors.
//!
//! | file | job |
//! |---|---|
//! | `systemd` | sends notifications |
//! | `watchdog` | reports to systemd that the mount answers |
//! | `confinement` | gives up rights that the mount does not need |
//! | `descriptors` | raises the limit of open files |
//! | `handover` | hands the mount over to the next daemon |
//! | `supervise` | a parent that restarts the daemon, for systems without systemd |
//! | `mount_visibility` | warns if no other process sees the mount |

pub(super) mod confinement;
pub(super) mod descriptors;
pub(super) mod handover;
pub(super) mod mount_visibility;
pub(super) mod supervise;
pub(super) mod systemd;
pub(super) mod watchdog;
