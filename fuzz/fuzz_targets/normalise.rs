//! See `check_normalise`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dandyroll_fuzz::check_normalise(bytes));
