//! Decoding: a loop over any source of logits, the mark, the sampler, and models in ONNX Runtime.
//!
//! The chain of a step, in this order: raw logits → entropy → mark on raw logits → repetition penalty →
//! temperature → top-k → top-p → mark on the final distribution, or draw. [`generate`] runs it for one text; [`Decoder`] is the same without the model, for
//! owners of many sequences. [`score`] reads a given text with the same arithmetic. [`onnx`] loads models,
//! [`chat`] makes prompts of conversations.

pub mod chat;
mod choose;
mod decoder;
mod generate;
mod lexicon;
pub mod onnx;
mod sampling;
mod score;
mod softmax;
mod source;
mod stop;

pub use decoder::{
    Counts, Decoder, Finish, GenerateError, Generation, Progress, Request, RequestError, StepRecord,
};
pub use generate::{Run, generate};
pub use lexicon::Lexicon;
pub use sampling::{RepetitionPenalty, Sampling, Temperature, TopK, TopP};
pub use score::{ScoreError, Scored, Scoring, WINDOW, score};
pub use softmax::{NoDistribution, Prediction};
pub use source::{CacheCost, Limits, LogitSource, Row, SourceError};
