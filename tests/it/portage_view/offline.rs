//! From nothing but Portage's own files; and while the binhosts are away.

use super::World;
use crate::harness::eventually;
use crate::harness::portage::{Nginx, binhost};

const LIBFOO: &str = "dev-libs/libfoo";
const REFRESHED: u64 = 30;

#[test]
fn what_is_not_here_is_planned_from_source_while_the_binhost_is_away() {
    let Some(multi) = binhost("gpkg-multi") else { return };
    let mut server = Nginx::serve(&multi);
    let world = World::of(&server, &[("multi", "", "")], "refresh = \"1s\"\noffline = \"hide\"").unwrap();
    let plan = || world.ours().plan(["app-misc/many", LIBFOO]);
    let here = ["binary sys-libs/glibc-2.41-2", "binary dev-libs/libfoo-1.3.0-1"];
    let mut all = here.map(str::to_owned).to_vec();
    all.push("binary app-misc/many-1-1".to_owned());
    all.sort();
    let sorted = || {
        let mut plan = plan();
        plan.sort();
        plan
    };
    assert_eq!(sorted(), all);
    world.ours().succeed([LIBFOO]);
    world.mounted.settled();
    let all_paths = world.paths();
    server.stop();
    eventually(REFRESHED, "only what is here is shown", || world.paths().len() == 2);
    let mut partly = all.clone();
    partly[0] = "ebuild app-misc/many-1".to_owned();
    partly.sort();
    assert_eq!(sorted(), partly);
    world.ours().succeed([LIBFOO]);
    server.start_again();
    eventually(REFRESHED, "all is shown again", || world.paths() == all_paths);
    assert_eq!(sorted(), all);
    world.ours().succeed(["app-misc/many"]);
}
