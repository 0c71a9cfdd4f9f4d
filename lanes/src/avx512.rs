//! Sixteen lanes: AVX-512F.

#[cfg(target_arch = "x86")]
use core::arch::x86::*;
#[cfg(target_arch = "x86_64")]
use core::arch::x86_64::*;

use crate::kernel::{kernel, lay_out};

type V = __m512i;
const LANES: usize = 16;
const LANES_U32: u32 = 16;

#[target_feature(enable = "avx512f")]
#[inline]
fn load(words: &[u32; LANES]) -> V {
    bytemuck::cast(*words)
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store(x: V, words: &mut [u32; LANES]) {
    *words = bytemuck::cast(x);
}

#[target_feature(enable = "avx512f")]
#[inline]
fn splat(word: u32) -> V {
    _mm512_set1_epi32(word.cast_signed())
}

#[target_feature(enable = "avx512f")]
#[inline]
fn add(a: V, b: V) -> V {
    _mm512_add_epi32(a, b)
}

#[target_feature(enable = "avx512f")]
#[inline]
fn sub(a: V, b: V) -> V {
    _mm512_sub_epi32(a, b)
}

#[target_feature(enable = "avx512f")]
#[inline]
fn xor(a: V, b: V) -> V {
    _mm512_xor_si512(a, b)
}

#[target_feature(enable = "avx512f")]
#[inline]
fn and(a: V, b: V) -> V {
    _mm512_and_si512(a, b)
}

#[target_feature(enable = "avx512f")]
#[inline]
fn shift_right<const N: i32>(x: V) -> V {
    _mm512_srlv_epi32(x, _mm512_set1_epi32(N))
}

#[target_feature(enable = "avx512f")]
#[inline]
fn rotate_16(x: V) -> V {
    _mm512_rol_epi32::<16>(x)
}

#[target_feature(enable = "avx512f")]
#[inline]
fn rotate_12(x: V) -> V {
    _mm512_rol_epi32::<12>(x)
}

#[target_feature(enable = "avx512f")]
#[inline]
fn rotate_8(x: V) -> V {
    _mm512_rol_epi32::<8>(x)
}

#[target_feature(enable = "avx512f")]
#[inline]
fn rotate_7(x: V) -> V {
    _mm512_rol_epi32::<7>(x)
}

lay_out! { #[target_feature(enable = "avx512f")] }
kernel! { #[target_feature(enable = "avx512f")] }
