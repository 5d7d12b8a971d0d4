// SPDX-License-Identifier: Apache-2.0
//! The classic capture file format (pcap-savefile(5), draft-ietf-opsawg-pcap), Ethernet only.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::frame::MAX_FRAME;

/// Times in microseconds.
const MAGIC_MICROSECONDS: u32 = 0xa1b2_c3d4;
/// Times in nanoseconds.
const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
/// First block type of a pcapng file.
const MAGIC_PCAPNG: u32 = 0x0a0d_0d0a;
const LINKTYPE_ETHERNET: u32 = 1;
/// The link type is in the low 28 bits; the others tell of frame check sequences.
const LINKTYPE_MASK: u32 = 0x0fff_ffff;
pub(super) const FILE_HEADER: usize = 24;
pub(super) const RECORD_HEADER: usize = 16;
/// Largest file that is replayed; it is held in memory.
pub const MAX_REPLAY_BYTES: u64 = 256 << 20;

/// Why a capture file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PcapError {
    /// Opening, reading or creating it failed.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Larger than is held in memory.
    #[error(
        "{path}: {bytes} bytes are more than the {MAX_REPLAY_BYTES} that can be replayed; split it (editcap -c)"
    )]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// A pcapng file.
    #[error("{path}: a pcapng file; convert it (editcap -F pcap)")]
    Pcapng {
        /// Which file.
        path: PathBuf,
    },
    /// No capture file.
    #[error("{path}: not a capture file, it begins with {magic:#010x}")]
    NotPcap {
        /// Which file.
        path: PathBuf,
        /// Its first four bytes, big-endian; 0 when it is shorter.
        magic: u32,
    },
    /// Captured on another kind of link.
    #[error("{path}: link type {link_type}, only Ethernet (1) can be replayed")]
    LinkType {
        /// Which file.
        path: PathBuf,
        /// Its link type.
        link_type: u32,
    },
    /// It ends inside a record.
    #[error("{path}: ends inside record {record} at byte {offset}")]
    Truncated {
        /// Which file.
        path: PathBuf,
        /// Which record, from 0.
        record: usize,
        /// Where the record begins.
        offset: usize,
    },
    /// A record that no frame can hold.
    #[error(
        "{path}: record {record} at byte {offset} has {length} bytes, a frame at most {MAX_FRAME}"
    )]
    RecordTooLong {
        /// Which file.
        path: PathBuf,
        /// Which record, from 0.
        record: usize,
        /// Where the record begins.
        offset: usize,
        /// Its captured length.
        length: u32,
    },
}

impl PcapError {
    pub(super) fn file(path: &Path, source: io::Error) -> PcapError {
        PcapError::File {
            path: path.to_owned(),
            source,
        }
    }
}

/// Where a frame lies in a capture.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Record {
    at: usize,
    len: u32,
    time: u64,
}

/// A capture file read and checked as a whole.
#[derive(Debug)]
pub struct Capture {
    bytes: Vec<u8>,
    records: Vec<Record>,
}

impl Capture {
    /// Reads a file.
    ///
    /// # Errors
    /// Whatever is wrong with it anywhere; a capture is replayed whole or not at all.
    pub fn read(path: &Path) -> Result<Capture, PcapError> {
        let fail = |e| PcapError::file(path, e);
        let file = File::open(path).map_err(fail)?;
        let mut bytes = Vec::new();
        // One byte over the limit tells a file that grows while it is read, or a device that never ends.
        file.take(MAX_REPLAY_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(fail)?;
        if bytes.len() as u64 > MAX_REPLAY_BYTES {
            let size = std::fs::metadata(path).map_or(bytes.len() as u64, |m| m.len());
            return Err(PcapError::TooLarge {
                path: path.to_owned(),
                bytes: size.max(bytes.len() as u64),
            });
        }
        Capture::parse(bytes, path)
    }

    /// Checks the bytes of a capture file; `path` names it in errors.
    ///
    /// # Errors
    /// As [`Capture::read`].
    pub fn parse(bytes: Vec<u8>, path: &Path) -> Result<Capture, PcapError> {
        let (order, unit) = magic(&bytes, path)?;
        if bytes.len() < FILE_HEADER {
            return Err(PcapError::Truncated {
                path: path.to_owned(),
                record: 0,
                offset: 0,
            });
        }
        let link_type = order.u32(&bytes, 20).unwrap_or(0) & LINKTYPE_MASK;
        if link_type != LINKTYPE_ETHERNET {
            return Err(PcapError::LinkType {
                path: path.to_owned(),
                link_type,
            });
        }
        let mut records = Vec::new();
        let mut offset = FILE_HEADER;
        while offset < bytes.len() {
            let header = [0, 4, 8].map(|field| order.u32(&bytes, offset + field));
            let [Some(seconds), Some(fraction), Some(length)] = header else {
                return Err(truncated(path, records.len(), offset));
            };
            if length > MAX_FRAME {
                return Err(PcapError::RecordTooLong {
                    path: path.to_owned(),
                    record: records.len(),
                    offset,
                    length,
                });
            }
            let at = offset + RECORD_HEADER;
            if at + length as usize > bytes.len() {
                return Err(truncated(path, records.len(), offset));
            }
            let time = u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * unit;
            records.push(Record {
                at,
                len: length,
                time,
            });
            offset = at + length as usize;
        }
        Ok(Capture { bytes, records })
    }

    /// How many frames it has.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// A frame's captured bytes and the time it was captured, in nanoseconds since 1970.
    pub fn frame(&self, index: usize) -> Option<(&[u8], u64)> {
        let record = self.records.get(index)?;
        let bytes = self.bytes.get(record.at..record.at + record.len as usize)?;
        Some((bytes, record.time))
    }
}

fn truncated(path: &Path, record: usize, offset: usize) -> PcapError {
    PcapError::Truncated {
        path: path.to_owned(),
        record,
        offset,
    }
}

/// The byte order of a file's headers.
#[derive(Clone, Copy, Debug)]
enum Order {
    Little,
    Big,
}

impl Order {
    fn u32(self, bytes: &[u8], at: usize) -> Option<u32> {
        let field = *bytes.get(at..)?.first_chunk::<4>()?;
        Some(match self {
            Order::Little => u32::from_le_bytes(field),
            Order::Big => u32::from_be_bytes(field),
        })
    }
}

/// Byte order and nanoseconds per unit of the fraction.
fn magic(bytes: &[u8], path: &Path) -> Result<(Order, u64), PcapError> {
    for order in [Order::Little, Order::Big] {
        match order.u32(bytes, 0) {
            Some(MAGIC_MICROSECONDS) => return Ok((order, 1000)),
            Some(MAGIC_NANOSECONDS) => return Ok((order, 1)),
            Some(MAGIC_PCAPNG) => {
                return Err(PcapError::Pcapng {
                    path: path.to_owned(),
                });
            }
            _ => {}
        }
    }
    Err(PcapError::NotPcap {
        path: path.to_owned(),
        magic: Order::Big.u32(bytes, 0).unwrap_or(0),
    })
}

/// The header of a file with times in nanoseconds.
pub(super) fn file_header(snaplen: u32) -> [u8; FILE_HEADER] {
    let mut header = [0; FILE_HEADER];
    header[0..4].copy_from_slice(&MAGIC_NANOSECONDS.to_le_bytes());
    header[4..6].copy_from_slice(&2u16.to_le_bytes());
    header[6..8].copy_from_slice(&4u16.to_le_bytes());
    header[16..20].copy_from_slice(&snaplen.to_le_bytes());
    header[20..24].copy_from_slice(&LINKTYPE_ETHERNET.to_le_bytes());
    header
}

/// The header of a record: time in nanoseconds since 1970, bytes in the file, bytes of the frame.
pub(super) fn record_header(time: u64, captured: u32, original: u32) -> [u8; RECORD_HEADER] {
    let seconds = (time / 1_000_000_000) as u32;
    let fraction = (time % 1_000_000_000) as u32;
    let mut header = [0; RECORD_HEADER];
    for (field, value) in header
        .chunks_exact_mut(4)
        .zip([seconds, fraction, captured, original])
    {
        field.copy_from_slice(&value.to_le_bytes());
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(frames: &[&[u8]]) -> Vec<u8> {
        let mut bytes = file_header(65_535).to_vec();
        for (i, frame) in frames.iter().enumerate() {
            let len = frame.len() as u32;
            bytes.extend(record_header(1_000_000_001 * i as u64, len, len));
            bytes.extend(*frame);
        }
        bytes
    }

    fn parse(bytes: Vec<u8>) -> Result<Capture, String> {
        Capture::parse(bytes, Path::new("x.pcap")).map_err(|e| e.to_string())
    }

    #[test]
    fn reads_what_was_written() {
        let capture = parse(file(&[b"one", b"", b"three"])).unwrap();
        assert_eq!(capture.len(), 3);
        assert_eq!(capture.frame(0), Some((&b"one"[..], 0)));
        assert_eq!(capture.frame(1), Some((&b""[..], 1_000_000_001)));
        assert_eq!(capture.frame(2), Some((&b"three"[..], 2_000_000_002)));
        assert_eq!(capture.frame(3), None);
        assert!(parse(file(&[])).unwrap().is_empty());
    }

    #[test]
    fn reads_microseconds_and_the_other_byte_order() {
        let mut big = MAGIC_MICROSECONDS.to_be_bytes().to_vec();
        big.extend([0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255]);
        big.extend(1u32.to_be_bytes());
        for field in [5u32, 7, 2, 60] {
            big.extend(field.to_be_bytes());
        }
        big.extend(b"ab");
        let capture = parse(big).unwrap();
        assert_eq!(capture.frame(0), Some((&b"ab"[..], 5_000_007_000)));
    }

    #[test]
    fn errors_name_the_place() {
        let good = file(&[b"one", b"two"]);
        for cut in 1..good.len() {
            let result = parse(good[..cut].to_vec());
            // A file may end between records.
            assert_eq!(result.is_ok(), cut == 24 || cut == 24 + 19, "cut at {cut}");
        }
        assert_eq!(
            parse(good[..50].to_vec()).unwrap_err(),
            "x.pcap: ends inside record 1 at byte 43"
        );
        let mut long = good.clone();
        long[24 + 8..24 + 12].copy_from_slice(&70_000u32.to_le_bytes());
        assert!(
            parse(long)
                .unwrap_err()
                .contains("record 0 at byte 24 has 70000 bytes")
        );
        let mut link = good.clone();
        link[20] = 113;
        assert!(parse(link).unwrap_err().contains("link type 113"));
        let mut fcs = good.clone();
        fcs[23] = 0x50;
        assert_eq!(parse(fcs).unwrap().len(), 2);
        assert!(
            parse(b"GIF89a..".to_vec())
                .unwrap_err()
                .contains("0x47494638")
        );
        assert!(parse(vec![]).unwrap_err().contains("not a capture file"));
        let pcapng = vec![0x0a, 0x0d, 0x0d, 0x0a, 0, 0, 0, 0];
        assert!(parse(pcapng).unwrap_err().contains("editcap -F pcap"));
    }

    #[test]
    fn a_missing_or_endless_file_is_named() {
        let missing = Capture::read(Path::new("/nonexistent/x.pcap")).unwrap_err();
        assert!(missing.to_string().starts_with("/nonexistent/x.pcap: "));
        let endless = Capture::read(Path::new("/dev/zero")).unwrap_err();
        assert!(matches!(endless, PcapError::TooLarge { .. }), "{endless}");
    }
}
