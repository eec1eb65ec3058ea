//! Which packages of a merge list come as binary packages, why emerge would compile the others, and
//! what to write so that it does not.
//!
//! | file | job |
//! |---|---|
//! | `calculate.py` | emerge's own calculation as JSON; emerge's interpreter runs it |
//! | `facts.py`, `user_flags.py`, `advisories.py` | its parts: facts, flags of the user, GLSAs |
//! | `calculation` | the format of its request and its answer |
//! | `emerge` | runs emerge's interpreter |
//! | `text_plan` | the merge list in the text of `emerge -pv`, if the calculation does not work |
//! | `offer` | what the binhosts offer, and what is hidden of it |
//! | `causes` | the main cause for each package, and further ones |
//! | `explanation` | a cause in words |
//! | `nearest` | the build that needs the fewest changes of USE |
//! | `suggestion` | what to write, or to do |
//! | `report` | the whole report |
//! | `text` | the report as text |
//! | `lines` | lines for package.use and package.mask |
//! | `own_files` | the files that have these lines |
//! | `rounds` | tries lines |
//! | `session` | one run |
//!
//! Portage is the resolver: nothing here decides what would be merged. The calculation reads an
//! index with hidden entries, too, and so shows whether hiding them is the cause.
//!
//! Lines are tried in calculations that read them in place of the files. The files are written
//! once, at the end.
//!
//! Not its job: fetching indexes (`daemon`), and the decision about entries (`policy`).

mod calculation;
mod causes;
mod emerge;
mod explanation;
mod lines;
mod nearest;
mod offer;
mod own_files;
mod report;
mod rounds;
mod session;
mod suggestion;
mod text;
mod text_plan;

pub(crate) use emerge::{EmergeError, EmergeRunner};
pub(crate) use nearest::{Distance, package_use};
pub(crate) use offer::{Offer, hides_any};
pub(crate) use own_files::OwnFiles;
pub(crate) use report::CoverageReport;
pub(crate) use session::{DEFAULT_ARGUMENTS, Hold, Session, SessionError};
pub(crate) use text::{ReportText, TextOptions};
