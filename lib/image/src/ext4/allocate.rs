//! Giving out blocks: one after the other, over the groups' own.

use super::geometry::Geometry;

/// Blocks that lie behind each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) begin: u64,
    pub(crate) length: u64,
}

/// All blocks for files before `next` are in use, and none from there on.
#[derive(Clone, Debug)]
pub(crate) struct Allocator {
    shape: Geometry,
    next: u64,
    group: u64,
}

impl Allocator {
    pub(crate) fn new(shape: Geometry) -> Self {
        Self { next: shape.data(0).start, group: 0, shape }
    }

    /// Takes `count` blocks, in as few runs as there can be; `None` where the file system is full.
    pub(crate) fn take(&mut self, mut count: u64) -> Option<Vec<Run>> {
        let mut runs = Vec::new();
        while count > 0 {
            let end = self.shape.end(self.group);
            if self.next == end {
                self.group += 1;
                if self.group == self.shape.groups {
                    return None;
                }
                self.next = self.shape.data(self.group).start;
                continue;
            }
            let length = count.min(end - self.next);
            runs.push(Run { begin: self.next, length });
            self.next += length;
            count -= length;
        }
        Some(runs)
    }

    /// Takes one block.
    pub(crate) fn one(&mut self) -> Option<u64> {
        self.take(1)?.first().map(|run| run.begin)
    }

    /// Returns how many blocks for files a group has that are in use.
    pub(crate) fn used(&self, group: u64) -> u64 {
        let data = self.shape.data(group);
        self.next.clamp(data.start, data.end) - data.start
    }

    /// Returns how many blocks are left.
    pub(crate) fn free(&self) -> u64 {
        (0..self.shape.groups).map(|g| self.shape.data(g).count() as u64 - self.used(g)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_out_is_what_is_used() {
        let shape = Geometry::new(70000, 100).unwrap();
        let mut all = Allocator::new(shape);
        let free = all.free();
        let first = all.take(40000).unwrap();
        assert_eq!(first.len(), 2, "the tables of the second group lie between");
        assert_eq!(all.free(), free - 40000);
        assert_eq!(all.one().unwrap(), first[1].begin + first[1].length);
        assert_eq!(all.used(2), 0);
        assert!(all.clone().take(free - 40001).is_some());
        assert!(all.take(free - 40000).is_none());
    }
}
