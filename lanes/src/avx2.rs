//! Eight lanes: AVX2.

#[cfg(target_arch = "x86")]
use core::arch::x86::*;
#[cfg(target_arch = "x86_64")]
use core::arch::x86_64::*;

use crate::kernel::kernel;

type V = __m256i;
const LANES: usize = 8;
const LANES_U32: u32 = 8;

#[target_feature(enable = "avx2")]
#[inline]
fn load(words: &[u32; LANES]) -> V {
    bytemuck::cast(*words)
}

#[target_feature(enable = "avx2")]
#[inline]
fn store(x: V, words: &mut [u32; LANES]) {
    *words = bytemuck::cast(x);
}

#[target_feature(enable = "avx2")]
#[inline]
fn splat(word: u32) -> V {
    _mm256_set1_epi32(word.cast_signed())
}

#[target_feature(enable = "avx2")]
#[inline]
fn add(a: V, b: V) -> V {
    _mm256_add_epi32(a, b)
}

#[target_feature(enable = "avx2")]
#[inline]
fn sub(a: V, b: V) -> V {
    _mm256_sub_epi32(a, b)
}

#[target_feature(enable = "avx2")]
#[inline]
fn xor(a: V, b: V) -> V {
    _mm256_xor_si256(a, b)
}

#[target_feature(enable = "avx2")]
#[inline]
fn and(a: V, b: V) -> V {
    _mm256_and_si256(a, b)
}

#[target_feature(enable = "avx2")]
#[inline]
fn shift_right<const N: i32>(x: V) -> V {
    _mm256_srli_epi32::<N>(x)
}

#[target_feature(enable = "avx2")]
#[inline]
fn rotate_16(x: V) -> V {
    // Bytes 2 3 0 1 of each word: one instruction where shifts need three.
    let bytes = _mm_set_epi8(13, 12, 15, 14, 9, 8, 11, 10, 5, 4, 7, 6, 1, 0, 3, 2);
    _mm256_shuffle_epi8(x, _mm256_broadcastsi128_si256(bytes))
}

#[target_feature(enable = "avx2")]
#[inline]
fn rotate_12(x: V) -> V {
    _mm256_or_si256(_mm256_slli_epi32::<12>(x), _mm256_srli_epi32::<20>(x))
}

#[target_feature(enable = "avx2")]
#[inline]
fn rotate_8(x: V) -> V {
    // Bytes 3 0 1 2 of each word.
    let bytes = _mm_set_epi8(14, 13, 12, 15, 10, 9, 8, 11, 6, 5, 4, 7, 2, 1, 0, 3);
    _mm256_shuffle_epi8(x, _mm256_broadcastsi128_si256(bytes))
}

#[target_feature(enable = "avx2")]
#[inline]
fn rotate_7(x: V) -> V {
    _mm256_or_si256(_mm256_slli_epi32::<7>(x), _mm256_srli_epi32::<25>(x))
}

/// Writes the block of each lane, one after another: `block[w]` holds word w of all lanes. Two transpositions of eight
/// by eight words.
#[target_feature(enable = "avx2")]
#[inline]
fn lay_out(block: &[V; 16], words: &mut [u32; 16 * LANES]) {
    let (halves, _) = block.as_chunks::<8>();
    for (half, rows) in halves.iter().enumerate() {
        let [a, b, c, d, e, f, g, h] = *rows;
        // Words of two rows side by side, then of four, in each half of a register; then the halves find each other.
        let twos = [
            (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b)),
            (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d)),
            (_mm256_unpacklo_epi32(e, f), _mm256_unpackhi_epi32(e, f)),
            (_mm256_unpacklo_epi32(g, h), _mm256_unpackhi_epi32(g, h)),
        ];
        let fours = |(low, high): (V, V), (low_2, high_2): (V, V)| {
            [
                _mm256_unpacklo_epi64(low, low_2),
                _mm256_unpackhi_epi64(low, low_2),
                _mm256_unpacklo_epi64(high, high_2),
                _mm256_unpackhi_epi64(high, high_2),
            ]
        };
        let (front, back) = (fours(twos[0], twos[1]), fours(twos[2], twos[3]));
        for lane in 0..4 {
            let near = _mm256_permute2x128_si256::<0x20>(front[lane], back[lane]);
            let far = _mm256_permute2x128_si256::<0x31>(front[lane], back[lane]);
            for (lane, eight) in [(lane, near), (lane + 4, far)] {
                let words = &mut words.as_chunks_mut::<8>().0[2 * lane + half];
                store(eight, words);
            }
        }
    }
}

kernel! { #[target_feature(enable = "avx2")] }
