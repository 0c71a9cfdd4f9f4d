#![no_main]
//! See `check_encode`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dandyroll_fuzz::check_encode(bytes));
