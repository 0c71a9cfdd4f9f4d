#![no_main]
//! See `check_normalise`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dandyroll_fuzz::check_normalise(bytes));
