//! Reads the values in `metadata.tar*` of a GPKG back from the file.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};

use super::MetadataMember;
use crate::verify::VerifyError;
use crate::verify::decompress::{FileSection, MAX_METADATA, decoder};
use crate::verify::tar_header::{BLOCK, MemberKind, TarHeader, is_zero, padding};
use crate::verify::values::{MetadataError, Values};

/// Returns the values in the metadata of `file`.
pub(crate) fn read(file: &File, member: &MetadataMember) -> Result<Values, VerifyError> {
    let failure = Cell::new(None);
    let section = FileSection::new(file, member.offset, member.size, &failure);
    let values = MetadataTar { input: decoder(&member.extension, section)?, left: MAX_METADATA }.values();
    match failure.take() {
        Some(source) => Err(VerifyError::Io { attempted: "reading a package back from the cache", source }),
        None => Ok(values?),
    }
}

struct MetadataTar<R> {
    input: R,
    left: u64,
}

impl<R: Read> MetadataTar<R> {
    fn values(mut self) -> Result<Values, MetadataError> {
        let (mut values, mut names) = (Values::default(), BTreeSet::new());
        while let Some(block) = self.block()? {
            let TarHeader { name, size, kind, .. } = TarHeader::parse(&block)?;
            if kind != MemberKind::Regular {
                return Err(MetadataError::NotRegular(name));
            }
            let key =
                name.strip_prefix("metadata/").filter(|key| !key.contains('/') && !matches!(*key, "" | "." | ".."));
            let Some(key) = key else { return Err(MetadataError::Name(name)) };
            if Values::wants(key, size)? {
                values.set(key, self.value(size)?)?;
            } else {
                self.skip(size)?;
            }
            self.skip(padding(size))?;
            if !names.insert(key.to_owned()) {
                return Err(MetadataError::Twice(key.to_owned()));
            }
        }
        // Reads to the last byte, because data that does not decompress there stops emerge, too.
        while let Some(block) = self.full_block()? {
            if !is_zero(&block) {
                return Err(MetadataError::AfterEnd);
            }
        }
        Ok(values)
    }

    /// Reads the next header; `None` at the end of the tar.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, MetadataError> {
        Ok(self.full_block()?.filter(|block| !is_zero(block)))
    }

    /// Reads the next block; `None` at the end of the stream.
    fn full_block(&mut self) -> Result<Option<[u8; BLOCK]>, MetadataError> {
        let bytes = self.take(BLOCK as u64)?;
        let mut block = [0; BLOCK];
        if bytes.is_empty() {
            return Ok(None);
        }
        if bytes.len() < BLOCK {
            return Err(MetadataError::Decompress(io::ErrorKind::UnexpectedEof.into()));
        }
        block.copy_from_slice(&bytes);
        Ok(Some(block))
    }

    fn value(&mut self, size: u64) -> Result<Vec<u8>, MetadataError> {
        let bytes = self.take(size)?;
        let whole = bytes.len() as u64 == size;
        if whole { Ok(bytes) } else { Err(MetadataError::Decompress(io::ErrorKind::UnexpectedEof.into())) }
    }

    /// Reads up to `count` bytes. The caller has checked that `count` is small.
    fn take(&mut self, count: u64) -> Result<Vec<u8>, MetadataError> {
        self.spend(count)?;
        let mut bytes = Vec::new();
        self.input.by_ref().take(count).read_to_end(&mut bytes).map_err(MetadataError::Decompress)?;
        Ok(bytes)
    }

    fn skip(&mut self, count: u64) -> Result<(), MetadataError> {
        self.spend(count)?;
        let skipped = io::copy(&mut self.input.by_ref().take(count), &mut io::sink());
        match skipped.map_err(MetadataError::Decompress)? {
            skipped if skipped == count => Ok(()),
            _ => Err(MetadataError::Decompress(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    fn spend(&mut self, count: u64) -> Result<(), MetadataError> {
        self.left = self.left.checked_sub(count).ok_or(MetadataError::TooLarge)?;
        Ok(())
    }
}
