//! What chance there is outside the seed. tokio draws the order in which it wakes those who wait for one value from a
//! generator that it seeds with the kernel's random bytes. In this program those bytes are always the same, so that a
//! run depends on its plan alone. The standard library asks through this symbol so that it can be replaced.
#![allow(unsafe_code)]

/// Stands in for getrandom(2).
///
/// # Safety
/// As getrandom(2): `buffer` is valid for writes of `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut u8, len: usize, _flags: u32) -> isize {
    if buffer.is_null() {
        return 0;
    }
    // SAFETY: the caller says that `buffer` is valid for writes of `len` bytes.
    unsafe { buffer.write_bytes(0x5a, len) };
    len as isize
}
