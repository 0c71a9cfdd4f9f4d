#![no_main]
//! See `check_ids`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dandyroll_fuzz::check_ids(bytes));
