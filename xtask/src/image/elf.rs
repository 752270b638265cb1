//! Whether a program is linked statically: in an image without a dynamic loader nothing else can be run.

use anyhow::{Context as _, Result, bail};

/// Program header of the dynamic loader's name.
const PT_INTERP: u32 = 3;

/// Fails when `program` is not a 64-bit little-endian ELF file, or asks for a dynamic loader.
pub(super) fn check_static(program: &[u8]) -> Result<()> {
    if program.get(..6) != Some(b"\x7fELF\x02\x01") {
        bail!("it is not a 64-bit little-endian ELF program");
    }
    let number = |at: usize, length: usize| -> Result<usize> {
        let bytes = program.get(at..at.saturating_add(length)).context("it is cut off")?;
        Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    };
    let (table, size, count) = (number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?);
    for index in 0..count {
        if number(table.saturating_add(index * size), 4)? == PT_INTERP as usize {
            bail!("it is linked dynamically; build it with -C target-feature=+crt-static");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check_static;

    /// An ELF header with one program header of type `kind`.
    fn program(kind: u8) -> Vec<u8> {
        let mut elf = vec![0; 0x40 + 0x38];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (elf[0x20], elf[0x36], elf[0x38], elf[0x40]) = (0x40, 0x38, 1, kind);
        elf
    }

    #[test]
    fn a_program_that_needs_a_loader_is_refused() {
        assert!(check_static(&program(1)).is_ok());
        assert!(check_static(&program(3)).unwrap_err().to_string().contains("dynamically"));
        assert!(check_static(&program(1)[..0x41]).is_err());
        assert!(check_static(b"#!/bin/sh\n").is_err());
        // This test itself is an ordinary program.
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(check_static(&own).is_err());
    }
}
