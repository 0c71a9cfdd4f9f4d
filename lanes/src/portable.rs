//! Four lanes by `wide`: SSE2 on x86-64, NEON on 64-bit ARM, SIMD on WebAssembly, plain words elsewhere.

use wide::u32x4;

use crate::kernel::{kernel, lay_out};

type V = u32x4;
const LANES: usize = 4;
const LANES_U32: u32 = 4;

#[inline]
fn load(words: &[u32; LANES]) -> V {
    V::new(*words)
}

#[inline]
fn store(x: V, words: &mut [u32; LANES]) {
    *words = x.to_array();
}

#[inline]
fn splat(word: u32) -> V {
    V::splat(word)
}

#[inline]
fn add(a: V, b: V) -> V {
    a + b
}

#[inline]
fn sub(a: V, b: V) -> V {
    a - b
}

#[inline]
fn xor(a: V, b: V) -> V {
    a ^ b
}

#[inline]
fn and(a: V, b: V) -> V {
    a & b
}

#[inline]
fn shift_right<const N: i32>(x: V) -> V {
    x >> N
}

#[inline]
fn rotate_16(x: V) -> V {
    (x << 16) | (x >> 16)
}

#[inline]
fn rotate_12(x: V) -> V {
    (x << 12) | (x >> 20)
}

#[inline]
fn rotate_8(x: V) -> V {
    (x << 8) | (x >> 24)
}

#[inline]
fn rotate_7(x: V) -> V {
    (x << 7) | (x >> 25)
}

lay_out! {}
kernel! {}
