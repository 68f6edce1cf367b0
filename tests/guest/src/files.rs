// SPDX-License-Identifier: GPL-2.0

//! Reading and writing parts of files for the runner.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result};

/// Up to `length` bytes of `path` from `offset` on.
pub fn read(path: &str, offset: u64, length: u32) -> Result<Vec<u8>> {
    let name = || format!("cannot read '{path}'");
    let mut file = File::open(path).with_context(name)?;
    if offset != 0 {
        // Files in proc and sysfs may not seek; they are read from the beginning.
        file.seek(SeekFrom::Start(offset)).with_context(name)?;
    }
    let mut data = Vec::new();
    file.take(u64::from(length))
        .read_to_end(&mut data)
        .with_context(name)?;
    Ok(data)
}

/// Writes `data` at `offset` of `path`; what was behind it is dropped. At offset 0 a file that does
/// not exist is made, with permissions `mode`. Files in sysfs and debugfs are written at offset 0.
pub fn write(path: &str, offset: u64, mode: u32, data: &[u8]) -> Result<()> {
    let name = || format!("cannot write '{path}'");
    let mut file = OpenOptions::new()
        .write(true)
        .create(offset == 0)
        .truncate(offset == 0)
        .mode(mode)
        .open(path)
        .with_context(name)?;
    if offset != 0 {
        file.set_len(offset).with_context(name)?;
        file.seek(SeekFrom::Start(offset)).with_context(name)?;
    }
    file.write_all(data).with_context(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_written_in_parts_reads_back_in_parts() {
        let path = std::env::temp_dir().join(format!("guest-agent-files-{}", std::process::id()));
        let path = path.to_str().expect("utf-8");
        write(path, 0, 0o755, b"hello ").expect("writes");
        write(path, 6, 0, b"world").expect("writes");
        assert_eq!(read(path, 0, 100).expect("reads"), b"hello world");
        assert_eq!(read(path, 4, 3).expect("reads"), b"o w");
        assert_eq!(read(path, 100, 3).expect("reads"), b"");
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(path).expect("exists").permissions();
        assert_eq!(mode.mode() & 0o700, 0o700);
        std::fs::remove_file(path).expect("removes");
    }
}
