//! Which of the wider instructions an x86 has, and the calls that need them.
#![expect(unsafe_code, reason = "calls of functions compiled for more than the target promises")]

use crate::Row;

/// Asks the standard library: CPUID for the instructions and for all that Rust takes them to imply, XGETBV for
/// whether the operating system saves their registers. Without it, only what the target promises is there.
macro_rules! has {
    ($feature:tt) => {{
        #[cfg(feature = "std")]
        let has = std::arch::is_x86_feature_detected!($feature);
        #[cfg(not(feature = "std"))]
        let has = cfg!(target_feature = $feature);
        has
    }};
}

/// Proof that the machine has AVX2: the field is private to this module, and [`Avx2::detect`] alone makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx2(());

impl Avx2 {
    #[inline]
    pub(crate) fn detect() -> Option<Self> {
        has!("avx2").then_some(Self(()))
    }

    #[inline]
    pub(crate) fn words(self, key: &[u32; 8], tokens: usize, rows: &[Row], words: &mut [u32]) {
        // SAFETY: all that a `target_feature` function asks of its caller is that the processor it runs on has
        // the feature. `self` exists, so `detect` found it: the target promises it, or the standard library saw
        // it at run time with everything it implies, which is what `is_x86_feature_detected!` is for. Neither
        // changes while a process runs. The function itself is safe code.
        unsafe { crate::avx2::words(key, tokens, rows, words) }
    }

    #[inline]
    pub(crate) fn stream(self, key: &[u32; 8], newer: u32, older: u32, first: u32, words: &mut [u32]) {
        // SAFETY: as in `words`.
        unsafe { crate::avx2::stream(key, newer, older, first, words) }
    }

    #[inline]
    pub(crate) fn raise(self, words: &[u32], below: u32, by: f32, values: &mut [f32]) {
        // SAFETY: as in `words`.
        unsafe { crate::avx2::raise(words, below, by, values) }
    }
}

/// Proof that the machine has AVX-512F, made by [`Avx512::detect`] alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx512(());

impl Avx512 {
    #[inline]
    pub(crate) fn detect() -> Option<Self> {
        has!("avx512f").then_some(Self(()))
    }

    #[inline]
    pub(crate) fn words(self, key: &[u32; 8], tokens: usize, rows: &[Row], words: &mut [u32]) {
        // SAFETY: as in `Avx2::words`; the feature of `crate::avx512::words` is the one that `detect` found.
        unsafe { crate::avx512::words(key, tokens, rows, words) }
    }

    #[inline]
    pub(crate) fn stream(self, key: &[u32; 8], newer: u32, older: u32, first: u32, words: &mut [u32]) {
        // SAFETY: as in `words`.
        unsafe { crate::avx512::stream(key, newer, older, first, words) }
    }

    #[inline]
    pub(crate) fn raise(self, words: &[u32], below: u32, by: f32, values: &mut [f32]) {
        // SAFETY: as in `words`.
        unsafe { crate::avx512::raise(words, below, by, values) }
    }
}
