//! Layer norm and its gradient, row by row.

use burn::backend::{TensorMetadata, flex::FlexTensor};
use rayon::prelude::*;

use super::{
    ROWS,
    matrix::{Dense, empty},
    vector::{Arch, dot, lanes},
};

/// Mean, and one over the deviation.
#[inline(always)]
fn moments(x: &[f32], epsilon: f32) -> (f32, f32) {
    let sum = lanes(
        x.len(),
        #[inline(always)]
        |i| x[i],
    );
    let mean = sum / x.len() as f32;
    // In a second pass: the mean of squares less the square of the mean loses all digits of a small deviation.
    let squares = lanes(
        x.len(),
        #[inline(always)]
        |i| (x[i] - mean) * (x[i] - mean),
    );
    (mean, 1.0 / (squares / x.len() as f32 + epsilon).sqrt())
}

pub fn norm(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, epsilon: f32) -> FlexTensor {
    let (x, weight, bias) = (Dense::new(&x), Dense::new(&weight), Dense::new(&bias));
    let (weight, bias, width) = (weight.slice(), bias.slice(), weight.width());
    assert!(x.width() == width && bias.len() == width, "rows of `x`, `weight` and `bias` are of one width");
    let mut output = empty(x.0.shape());
    let span = ROWS * width;
    output.storage_mut::<f32>().par_chunks_mut(span).zip(x.slice().par_chunks(span)).for_each(|(output, x)| {
        Arch::new().dispatch(
            #[inline(always)]
            || {
                for (output, x) in output.chunks_mut(width).zip(x.chunks(width)) {
                    let (mean, scale) = moments(x, epsilon);
                    for (((output, x), weight), bias) in output.iter_mut().zip(x).zip(weight).zip(bias) {
                        *output = (x - mean) * scale * weight + bias;
                    }
                }
            },
        );
    });
    output
}

/// The gradients of `x`, weight and bias.
pub fn back(
    x: FlexTensor,
    weight: FlexTensor,
    gradient: FlexTensor,
    epsilon: f32,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let (x, weight, gradient) = (Dense::new(&x), Dense::new(&weight), Dense::new(&gradient));
    let (scales, width) = (weight.slice(), weight.width());
    assert!(x.width() == width && x.size() == gradient.size(), "rows of `x`, `weight` and `gradient` are of one width");
    let mut to_x = empty(x.0.shape());
    let span = ROWS * width;
    let parts: Vec<(Vec<f32>, Vec<f32>)> = to_x
        .storage_mut::<f32>()
        .par_chunks_mut(span)
        .zip(x.slice().par_chunks(span))
        .zip(gradient.slice().par_chunks(span))
        .map(|((to, x), gradient)| {
            let (mut to_weight, mut to_bias) = (vec![0.0; width], vec![0.0; width]);
            Arch::new().dispatch(
                #[inline(always)]
                || {
                    let rows = to.chunks_mut(width).zip(x.chunks(width)).zip(gradient.chunks(width));
                    for ((to, x), gradient) in rows {
                        row_back(x, scales, gradient, epsilon, to, &mut to_weight);
                        for (sum, gradient) in to_bias.iter_mut().zip(gradient) {
                            *sum += gradient;
                        }
                    }
                },
            );
            (to_weight, to_bias)
        })
        .collect();
    let (mut to_weight, mut to_bias) = (empty(weight.0.shape()), empty(weight.0.shape()));
    for (weight, bias) in parts {
        for (sum, value) in to_weight.storage_mut::<f32>().iter_mut().zip(weight) {
            *sum += value;
        }
        for (sum, value) in to_bias.storage_mut::<f32>().iter_mut().zip(bias) {
            *sum += value;
        }
    }
    (to_x, to_weight, to_bias)
}

#[inline(always)]
fn row_back(x: &[f32], weight: &[f32], gradient: &[f32], epsilon: f32, to: &mut [f32], to_weight: &mut [f32]) {
    let width = weight.len();
    let (mean, scale) = moments(x, epsilon);
    for i in 0..width {
        to_weight[i] += gradient[i] * (x[i] - mean) * scale;
        to[i] = gradient[i] * weight[i];
    }
    // Of the weighted gradient, what neither shifts the row nor stretches it.
    let shift = lanes(
        width,
        #[inline(always)]
        |i| to[i],
    ) / width as f32;
    let stretch = (dot(to, x) - shift * width as f32 * mean) * scale * scale / width as f32;
    for i in 0..width {
        to[i] = (to[i] - shift - (x[i] - mean) * stretch) * scale;
    }
}
