#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fieldpost_fuzz_bodies::spool_segment(data));
