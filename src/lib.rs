//! Latentflow turns a prompt into video: the runtime library, free of GStreamer.
//!
//! ```text
//! prompt ─text─► prompt_embeds ─┐
//! seed ──noise─► latents ─patches─► tokens ─denoise(schedule, sampler)─► latents ─vae(tiles)─► frames
//! frames ─vae──► latents ─┘ (image, video and continuation prompts)
//! ```

mod denoise;
mod error;
pub mod guidance;
mod model;
pub mod noise;
mod onnx;
pub mod package;
mod papercut;
mod parameters;
pub mod patches;
mod runtime;
pub mod sampler;
pub mod schedule;
pub mod step_cache;
pub mod text;
mod turns;
pub mod vae;

pub use denoise::{DEFAULT_SEED, DiffuseOptions, Diffuser};
pub use error::{Error, Result};
pub use model::{Ahead, Model};
pub use onnx::{ElementType, Signature, TensorInfo};
pub use package::Package;
pub use papercut::papercut;
pub use runtime::{
    Cancel, ExecutionProvider, Feeds, Graph, RuntimeOptions, Tensor, Tensors, add_library_folder,
};
pub use text::{PromptEmbeds, TextEncoder};
pub use turns::Turn;
