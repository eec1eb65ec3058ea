//! The order of the planned prefetches, and their bounds.
//!
//! A *course* is the rest of one emerge's plan. A package of the plan that is fetched and not
//! opened yet is *ahead*. The number of packages ahead is bounded for each course, their bytes for
//! all courses together. Each open makes room for another package. A long plan is therefore
//! followed to its end at the pace of its emerge. A plan whose emerge opens nothing stops after its
//! first packages.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// Plans that are followed at the same time: enough for a build server with a handful of
/// containers.
pub(crate) const MAX_COURSES: usize = 8;
/// Packages of one plan that are ahead. An emerge installs some 64 small packages in a minute;
/// later ones can wait.
pub(crate) const MAX_AHEAD: usize = 64;
/// Packages of one plan that wait for a turn in the table of downloads: enough to give the table a
/// choice.
const MAX_WAITING: usize = 3;
/// Packages of one plan that are queued here, including those that were added to the plan later.
const MAX_QUEUED: usize = 2 * crate::portage::merge_plan::MAX_PLANNED;
/// Failures in a row that end a plan: the binhost is offline, or the disk is full.
const MAX_FAILURES: u32 = 3;
/// Shortest time between two reads of a process's plan.
pub(crate) const READ_PAUSE: Duration = Duration::from_secs(2);

/// An item of a plan: its key, and its size in bytes.
pub(crate) trait Prefetchable {
    type Key: Copy + Eq + Hash;

    fn key(&self) -> Self::Key;
    fn size(&self) -> u64;
}

#[derive(Debug)]
struct PlanQueue<I: Prefetchable> {
    queue: VecDeque<I>,
    /// The keys of all items that are or were in the queue.
    members: HashSet<I::Key>,
    ahead: usize,
    /// Packages ahead whose download has not begun.
    waiting: usize,
    failures: u32,
    read: Instant,
}

/// A package that is ahead.
#[derive(Debug)]
struct QueuedPackage<P> {
    process: P,
    size: u64,
    /// The package is being fetched, or is cached.
    begun: bool,
}

/// The queues of all plans. `P` identifies the process that owns a plan.
#[derive(Debug)]
pub(crate) struct PrefetchQueue<P, I: Prefetchable> {
    courses: HashMap<P, PlanQueue<I>>,
    ahead: HashMap<I::Key, QueuedPackage<P>>,
    bytes: u64,
    max_bytes: u64,
}

/// The result of adding a plan.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Added {
    /// The plan is new, and the caller must follow it.
    New,
    /// The plan is followed already; its new packages were added.
    Extended,
    /// The limit of plans is reached.
    Refused,
}

impl<P: Copy + Eq + Hash, I: Prefetchable> PrefetchQueue<P, I> {
    /// A queue with at most `max_bytes` ahead.
    pub(crate) fn new(max_bytes: u64) -> Self {
        Self { courses: HashMap::new(), ahead: HashMap::new(), bytes: 0, max_bytes }
    }

    /// Whether the package is in a plan that is followed.
    pub(crate) fn is_planned(&self, key: I::Key) -> bool {
        self.courses.values().any(|course| course.members.contains(&key))
    }

    /// Whether the plan of `process` may be read now.
    pub(crate) fn may_read(&self, process: P) -> bool {
        match self.courses.get(&process) {
            Some(course) => course.read.elapsed() >= READ_PAUSE,
            None => self.courses.len() < MAX_COURSES,
        }
    }

    /// Adds a plan, or its new packages. The package `opened` is not queued: it is cached, or its
    /// download is running.
    pub(crate) fn add(&mut self, process: P, items: impl IntoIterator<Item = I>, opened: I::Key) -> Added {
        let known = self.courses.contains_key(&process);
        if !known && self.courses.len() >= MAX_COURSES {
            return Added::Refused;
        }
        let course = self.courses.entry(process).or_insert_with(PlanQueue::new);
        (course.read, course.failures) = (Instant::now(), 0);
        course.members.insert(opened);
        for item in items {
            if course.queue.len() < MAX_QUEUED && course.members.insert(item.key()) {
                course.queue.push_back(item);
            }
        }
        if known { Added::Extended } else { Added::New }
    }

    /// The next package of a plan, if there is room for it. The package counts as ahead from now
    /// on. Packages for which `has` is true are skipped, since they need no download.
    pub(crate) fn next(&mut self, process: P, has: impl Fn(&I) -> bool) -> Option<I> {
        let course = self.courses.get_mut(&process)?;
        while let Some(item) = course.queue.front() {
            let (key, size) = (item.key(), item.size());
            if size > self.max_bytes || self.ahead.contains_key(&key) || has(item) {
                course.queue.pop_front();
                continue;
            }
            let full = course.ahead >= MAX_AHEAD || course.waiting >= MAX_WAITING;
            if full || self.bytes.saturating_add(size) > self.max_bytes {
                return None;
            }
            (course.ahead, course.waiting) = (course.ahead + 1, course.waiting + 1);
            self.bytes += size;
            self.ahead.insert(key, QueuedPackage { process, size, begun: false });
            return course.queue.pop_front();
        }
        None
    }

    /// Marks a package as being fetched. `false`: it was opened before.
    pub(crate) fn begun(&mut self, key: I::Key) -> bool {
        let Some(ahead) = self.ahead.get_mut(&key) else { return false };
        let before = std::mem::replace(&mut ahead.begun, true);
        if let Some(course) = self.courses.get_mut(&ahead.process).filter(|_| !before) {
            course.waiting -= 1;
        }
        true
    }

    /// Removes an opened package from those ahead. Returns whether its download had begun. `None`:
    /// the package was not ahead.
    pub(crate) fn opened(&mut self, key: I::Key) -> Option<bool> {
        let QueuedPackage { process, size, begun } = self.ahead.remove(&key)?;
        self.bytes -= size;
        if let Some(course) = self.courses.get_mut(&process) {
            course.ahead -= 1;
            course.waiting -= usize::from(!begun);
        }
        Some(begun)
    }

    /// Records that a package of the plan was fetched: resets the count of failures.
    pub(crate) fn succeeded(&mut self, process: P) {
        self.courses.get_mut(&process).into_iter().for_each(|course| course.failures = 0);
    }

    /// Records that a package could not be fetched, or that the cache could not keep it.
    pub(crate) fn failed(&mut self, process: P, key: I::Key) {
        self.opened(key);
        let Some(course) = self.courses.get_mut(&process) else { return };
        course.failures += 1;
        if course.failures >= MAX_FAILURES {
            course.queue.clear();
        }
    }

    /// Ends a plan. Returns how many of its packages were fetched, or begun, and not opened.
    pub(crate) fn end(&mut self, process: P) -> usize {
        self.courses.remove(&process);
        let of = |(key, ahead): (&I::Key, &QueuedPackage<P>)| (ahead.process == process).then_some(*key);
        let keys: Vec<I::Key> = self.ahead.iter().filter_map(of).collect();
        keys.into_iter().filter(|key| self.opened(*key) == Some(true)).count()
    }
}

impl<I: Prefetchable> PlanQueue<I> {
    fn new() -> Self {
        let (queue, members) = (VecDeque::new(), HashSet::new());
        Self { queue, members, ahead: 0, waiting: 0, failures: 0, read: Instant::now() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Of(u32, u64);

    impl Prefetchable for Of {
        type Key = u32;

        fn key(&self) -> u32 {
            self.0
        }

        fn size(&self) -> u64 {
            self.1
        }
    }

    /// The next package, whose download begins at once.
    fn next(queue: &mut PrefetchQueue<char, Of>, process: char) -> Option<u32> {
        let next = queue.next(process, |_| false).map(|item| item.0);
        next.inspect(|key| assert!(queue.begun(*key)))
    }

    fn all(queue: &mut PrefetchQueue<char, Of>, process: char) -> Vec<u32> {
        std::iter::from_fn(|| next(queue, process)).collect()
    }

    #[test]
    fn in_the_order_of_the_plan_and_each_once() {
        let mut queue = PrefetchQueue::new(100);
        let plan = [3, 1, 3, 2, 1].map(|key| Of(key, 1));
        assert_eq!(queue.add('a', plan, 1), Added::New);
        assert!(queue.is_planned(1) && queue.is_planned(2) && !queue.is_planned(4));
        assert!(!queue.may_read('a') && queue.may_read('b'));
        assert_eq!(all(&mut queue, 'a'), [3, 2]);
        assert_eq!(queue.add('a', [4, 2, 5].map(|key| Of(key, 1)), 4), Added::Extended);
        assert_eq!(all(&mut queue, 'a'), [5]);
        assert!(all(&mut queue, 'b').is_empty());
    }

    #[test]
    fn what_is_here_or_can_never_be_is_passed_over() {
        let mut queue = PrefetchQueue::new(10);
        queue.add('a', [Of(1, 11), Of(2, 5), Of(3, 5)], 0);
        queue.add('b', [Of(3, 5), Of(4, 5)], 0);
        assert_eq!(queue.next('a', |item| item.0 == 2).map(|item| item.0), Some(3));
        // The package is already ahead for another plan.
        assert_eq!(next(&mut queue, 'b'), Some(4));
    }

    #[test]
    fn only_so_many_and_so_much_ahead_until_some_are_opened() {
        let mut queue = PrefetchQueue::new(1000);
        let count = 2 * MAX_AHEAD as u32;
        queue.add('a', (1..=count).map(|key| Of(key, 1)), 0);
        assert_eq!(all(&mut queue, 'a').len(), MAX_AHEAD);
        assert_eq!([7, 7, count].map(|key| queue.opened(key)), [Some(true), None, None]);
        assert_eq!(all(&mut queue, 'a'), [MAX_AHEAD as u32 + 1]);

        let mut queue = PrefetchQueue::new(10);
        queue.add('a', [Of(1, 4), Of(2, 4), Of(3, 4)], 0);
        queue.add('b', [Of(4, 2), Of(5, 1)], 0);
        assert_eq!((all(&mut queue, 'a'), all(&mut queue, 'b')), (vec![1, 2], vec![4]));
        queue.end('a');
        assert_eq!((all(&mut queue, 'a'), all(&mut queue, 'b')), (vec![], vec![5]));
        assert_eq!(queue.bytes, 3);
    }

    #[test]
    fn only_a_few_wait_for_their_turn() {
        let mut queue = PrefetchQueue::new(100);
        queue.add('a', (1..=20).map(|key| Of(key, 1)), 0);
        let wait = |queue: &mut PrefetchQueue<char, Of>| -> Vec<u32> {
            std::iter::from_fn(|| queue.next('a', |_| false).map(|item| item.0)).collect()
        };
        assert_eq!(wait(&mut queue), [1, 2, 3]);
        // A package that begins, fails, or is opened before its turn makes room. Opening it later
        // does not.
        assert!(queue.begun(1) && queue.begun(1));
        assert_eq!((queue.opened(2), queue.opened(1)), (Some(false), Some(true)));
        queue.failed('a', 3);
        assert_eq!(wait(&mut queue), [4, 5, 6]);
        assert!(queue.begun(4) && !queue.begun(2));
        // Only one download was begun and not opened.
        assert_eq!((queue.end('a'), queue.bytes), (1, 0));
    }

    #[test]
    fn failures_in_a_row_end_a_plan() {
        let mut queue = PrefetchQueue::new(100);
        queue.add('a', (1..=20).map(|key| Of(key, 1)), 0);
        let turn = |well: bool, queue: &mut PrefetchQueue<char, Of>| {
            let key = next(queue, 'a');
            match key {
                Some(_) if well => queue.succeeded('a'),
                Some(key) => queue.failed('a', key),
                None => {}
            }
            key
        };
        for well in [false, false, true, false, false, false] {
            assert!(turn(well, &mut queue).is_some());
        }
        assert_eq!((turn(true, &mut queue), queue.bytes), (None, 1));
    }

    #[test]
    fn only_so_many_plans_of_such_a_length() {
        let mut queue = PrefetchQueue::new(u64::MAX);
        let many = || (0..u32::MAX).map(|key| Of(key, 1)).take(3 * MAX_QUEUED);
        for process in ('a'..).take(MAX_COURSES) {
            assert_eq!(queue.add(process, many(), 0), Added::New);
        }
        assert_eq!(queue.add('z', many(), 0), Added::Refused);
        assert!(!queue.may_read('z'));
        assert_eq!(queue.courses[&'a'].queue.len(), MAX_QUEUED);
        queue.end('a');
        assert!(queue.may_read('z'));
    }
}
