//! Tensors as rows of numbers, and the product of two matrices. Knows nothing of what they mean.

use burn::{
    backend::{TensorMetadata, flex::FlexTensor},
    tensor::{DType, Shape},
};

pub(super) fn empty(shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::empty(shape.into(), DType::F32)
}

/// The same tensor in row-major order. Consumed, so that nobody else holds a dense one and writing happens in place.
pub(super) fn owned(tensor: FlexTensor) -> FlexTensor {
    if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() }
}

/// The tensor's elements in row-major order, and its last dimension.
pub(super) struct Dense(pub(super) FlexTensor);

impl Dense {
    pub(super) fn new(tensor: &FlexTensor) -> Self {
        Self(tensor.to_contiguous())
    }

    pub(super) fn slice(&self) -> &[f32] {
        self.0.as_slice::<f32>().expect("to_contiguous made it dense")
    }

    pub(super) fn width(&self) -> usize {
        let shape = self.0.shape();
        shape[shape.num_dims() - 1]
    }

    pub(super) fn height(&self) -> usize {
        self.slice().len() / self.width().max(1)
    }

    /// Height and width.
    pub(super) fn size(&self) -> [usize; 2] {
        [self.height(), self.width()]
    }
}

/// A pointer that tasks share while each writes its own, disjoint part.
#[derive(Clone, Copy)]
pub(super) struct Shared(pub(super) *mut f32);
// SAFETY: every user below hands each task a range that no other task touches.
unsafe impl Send for Shared {}
unsafe impl Sync for Shared {}

impl Shared {
    pub(super) fn of(tensor: &mut FlexTensor) -> Self {
        Self(tensor.storage_mut::<f32>().as_mut_ptr())
    }

    /// # Safety
    /// `offset` lies inside the tensor, and nobody else uses the part that the caller will write.
    pub(super) unsafe fn at(self, offset: usize) -> *mut f32 {
        unsafe { self.0.add(offset) }
    }
}

/// A matrix operand by its first element and the distance between rows and between columns.
#[derive(Clone, Copy)]
pub(super) struct Operand(pub(super) *const f32, pub(super) usize, pub(super) usize);

/// Where a product goes: first element, distance between rows, and whether it is added to what is there.
#[derive(Clone, Copy)]
pub(super) struct Target(pub(super) *mut f32, pub(super) usize, pub(super) bool);

/// `target[m, n] (+)= left[m, k] right[k, n]`.
///
/// # Safety
/// The pointers cover the matrices that the sizes and distances describe.
pub(super) unsafe fn product(
    [m, n, k]: [usize; 3],
    target: Target,
    left: Operand,
    right: Operand,
    parallelism: gemm::Parallelism,
) {
    let Target(to, to_row, add) = target;
    let Operand(left, left_row, left_column) = left;
    let Operand(right, right_row, right_column) = right;
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            to,
            1,
            to_row.cast_signed(),
            add,
            left,
            left_column.cast_signed(),
            left_row.cast_signed(),
            right,
            right_column.cast_signed(),
            right_row.cast_signed(),
            if add { 1.0 } else { 0.0 },
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

pub(super) fn threads() -> gemm::Parallelism {
    gemm::Parallelism::Rayon(0)
}

/// `to[m, n] = x[m, k] weight[n, k]^T`, all dense. A row of the result does not depend on how many others there are.
pub(super) fn project(x: &[f32], weight: &[f32], k: usize, to: &mut [f32]) {
    let (m, n) = (x.len() / k, weight.len() / k);
    // What is below writes by pointers.
    assert!(x.len() == m * k && weight.len() == n * k, "rows of {k} in {} and {} numbers", x.len(), weight.len());
    assert_eq!(to.len(), m * n, "a product of [{m}, {k}] and [{n}, {k}]");
    // Below this the library takes another summation order; padding with zero rows keeps a
    // token's result independent of how many others are in the batch.
    let least = 256 / n + 2;
    let weight_columns = Operand(weight.as_ptr(), 1, k);
    // SAFETY: sizes are those of the three slices, or of the padded copies.
    unsafe {
        if m >= least {
            product([m, n, k], Target(to.as_mut_ptr(), n, false), Operand(x.as_ptr(), k, 1), weight_columns, threads());
        } else {
            let mut padded = vec![0.0; least * k];
            padded[..m * k].copy_from_slice(x);
            let mut product_padded = vec![0.0; least * n];
            let target = Target(product_padded.as_mut_ptr(), n, false);
            product([least, n, k], target, Operand(padded.as_ptr(), k, 1), weight_columns, threads());
            to.copy_from_slice(&product_padded[..m * n]);
        }
    }
}
