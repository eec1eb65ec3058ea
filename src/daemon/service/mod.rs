//! The process as a service: systemd, its rights, and its successors.
//!
//! | file | job |
//! |---|---|
//! | `systemd` | notifications |
//! | `watchdog` | tells systemd that the mount answers |
//! | `confinement` | gives up rights that the mount does not need |
//! | `descriptors` | the limit of open files |
//! | `handover` | leaves the mount to the next daemon |
//! | `supervise` | a parent that starts the daemon again, for systems without systemd |
//! | `mount_visibility` | warns when nobody else sees the mount |

pub(super) mod confinement;
pub(super) mod descriptors;
pub(super) mod handover;
pub(super) mod mount_visibility;
pub(super) mod supervise;
pub(super) mod systemd;
pub(super) mod watchdog;
