//! The blocks of a text that were read last, in memory.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

/// Blocks that are kept for each text. Readers of one text mostly read neighbouring blocks.
const KEPT: usize = 4;
/// Most bytes of a block that is kept. Only an entry of unusual size makes a larger block.
const MAX_BYTES: usize = 256 << 10;

/// Up to [`KEPT`] blocks with their numbers; the one that was read last comes last.
#[derive(Debug, Default)]
pub(super) struct RecentBlocks(Mutex<Vec<(usize, Arc<[u8]>)>>);

impl RecentBlocks {
    /// The block number `number`. If it is not kept, `make` makes it. Several readers of one block
    /// may make it at the same time, because `make` is called without the lock.
    pub(super) fn get(&self, number: usize, make: impl FnOnce() -> io::Result<Vec<u8>>) -> io::Result<Arc<[u8]>> {
        {
            let mut kept = self.0.lock();
            if let Some(at) = kept.iter().position(|(other, _)| *other == number) {
                let block = kept.remove(at);
                let text = Arc::clone(&block.1);
                kept.push(block);
                return Ok(text);
            }
        }
        let text: Arc<[u8]> = make()?.into();
        if text.len() > MAX_BYTES {
            return Ok(text);
        }
        let mut kept = self.0.lock();
        kept.retain(|(other, _)| *other != number);
        if kept.len() >= KEPT {
            kept.remove(0);
        }
        kept.push((number, Arc::clone(&text)));
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_four_are_not_made_again() {
        let blocks = RecentBlocks::default();
        let made = |number: usize| {
            let mut made = false;
            let text = blocks.get(number, || {
                made = true;
                Ok(vec![number as u8])
            });
            assert_eq!(*text.unwrap(), [number as u8]);
            made
        };
        assert!((0..4).all(made) && !(0..4).any(made));
        // Number 0 was read again since, so number 1 goes.
        assert!(!made(0) && made(9) && made(1) && !made(0));
        let large = |made: &mut u32| {
            blocks.get(8, || {
                *made += 1;
                Ok(vec![0; MAX_BYTES + 1])
            })
        };
        let mut times = 0;
        assert!(large(&mut times).is_ok() && large(&mut times).is_ok() && times == 2, "it is not kept");
        assert!(blocks.get(7, || Err(io::ErrorKind::InvalidData.into())).is_err() && made(7));
    }
}
