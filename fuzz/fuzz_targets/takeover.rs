#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tcplb_fuzz::takeover(data));
