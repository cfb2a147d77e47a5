"""The union losses and the weights of voxels, as functions of tensors (B, 1, Z, Y, X).

Papers: Zheng 2021, section III-C (Tversky, Root Tversky, General Union); Tang 2022, section 1; Shirokikh 2020 (inverse
weighting). The public code of Zheng 2021 sums over the whole batch, and so do we. Deviations: the public code of Tang
2022 mirrors the mask at the border of the patch for the local foreground rate; here the mean is over the voxels inside.
The public code of Shirokikh 2020 squares p in the denominators of Dice and of the asymmetric similarity loss; here they
are members of the union family, as in their own papers.
"""

import torch
import torch.nn.functional as F


def most_across_faces(values: torch.Tensor) -> torch.Tensor:
    """Give each voxel of (N, 1, Z, Y, X) the greatest value of itself and its six neighbours."""
    along = [
        F.max_pool3d(values, size, 1, tuple(side // 2 for side in size)) for size in ((3, 1, 1), (1, 3, 1), (1, 1, 3))
    ]
    return torch.max(torch.max(along[0], along[1]), along[2])


def _most_in_cube(values: torch.Tensor, size: int) -> torch.Tensor:
    """Give each voxel of (N, 1, Z, Y, X) the greatest value in the cube centred at it, as far as it lies inside."""
    for kernel in ((size, 1, 1), (1, size, 1), (1, 1, size)):
        values = F.max_pool3d(values, kernel, 1, tuple(side // 2 for side in kernel))
    return values


def foreground_logit(logits: torch.Tensor, dim: int = 1) -> torch.Tensor:
    """Reduce nnU-Net's heads to one logit z of the foreground, whose sigmoid is its probability.

    Args:
        logits: two heads {background, airway} along ``dim``, or one head of a region.
        dim: axis of the heads.

    Returns:
        Same shape with one head; softmax over two heads is the sigmoid of their difference.
    """
    if logits.shape[dim] == 1:
        return logits
    background, airway = logits.split(1, dim)
    return airway - background


def union_sums(
    prob: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    *,
    alpha: float,
    beta: float,
    root: float,
    epsilon: float,
) -> torch.Tensor:
    """Sum numerator and denominator of the union loss: (2,) in float32 or better, differentiable in ``prob``.

    Separate from ``union_loss`` so that ranks can add theirs up first. Arguments as there.
    """
    prob = prob.to(torch.promote_types(prob.dtype, torch.float32))
    target = target.to(prob.dtype)
    found = prob + epsilon if epsilon else prob
    found = found.pow(root) if root != 1 else found
    overlap = found * target
    union = alpha * prob + beta * target
    if weight is not None:
        overlap, union = overlap * weight, union * weight
    return torch.stack((overlap.sum(), union.sum()))


def union_loss_from_sums(sums: torch.Tensor, *, smooth: float) -> torch.Tensor:
    """Turn the sums of ``union_sums`` into the loss."""
    return 1 - (sums[0] + smooth) / (sums[1] + smooth)


def union_loss(
    prob: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    *,
    alpha: float,
    beta: float,
    root: float = 1.0,
    smooth: float = 1.0,
    epsilon: float = 0.0,
) -> torch.Tensor:
    """Compute the family of union losses: 1 - (sum w (p + epsilon)^root g + smooth) / (sum w (alpha p + beta g) + smooth).

    Dice is alpha = beta = 1/2, root = 1; Tversky alpha + beta = 1; Root Tversky root = 0.7; General Union has weights.

    Args:
        prob: foreground probability p in [0, 1], (B, 1, Z, Y, X); any floating type, computed in float32 or better.
        target: g in {0, 1}, same shape.
        weight: w >= 0, same shape; None is 1 everywhere.
        alpha: share of the prediction in the denominator.
        beta: share of the target in the denominator.
        root: exponent of the prediction in the numerator.
        smooth: keeps the quotient defined for an empty patch.
        epsilon: keeps the gradient of the root finite at p = 0.

    Returns:
        Scalar loss; sums run over the whole batch.

    Source: Zheng 2021, eqs. 10, 12, 16; Tang 2022, eq. 2.

    Of two airway voxels one is found, and a third voxel is false; Dice is then 1/2:

    >>> prob, target = (torch.tensor(row).view(1, 1, 1, 1, 3) for row in ([1.0, 0, 1], [1, 1, 0]))
    >>> union_loss(prob, target, alpha=0.5, beta=0.5, smooth=0)
    tensor(0.5000)
    """  # noqa: E501
    sums = union_sums(prob, target, weight, alpha=alpha, beta=beta, root=root, epsilon=epsilon)
    return union_loss_from_sums(sums, smooth=smooth)


def local_foreground_rate(target: torch.Tensor, *, kernel_size: int = 7) -> torch.Tensor:
    """Compute FR_p, the mean of g over the cube centred at p; at the border over the voxels inside the patch.

    Args:
        target: g in {0, 1}, (B, 1, Z, Y, X).
        kernel_size: edge of the cube in voxels, odd.

    Returns:
        Same shape, float32, in [0, 1].

    Raises:
        ValueError: an even kernel size.

    Source: Tang 2022, eq. 1.
    """
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"an odd kernel size is needed, so that the cube has a centre voxel; got {kernel_size}")
    # integers are exact and half as wide as floats; the cube's voxels must fit
    count = target.to(torch.int16 if kernel_size**3 < 2**15 else torch.int32)
    inside = torch.ones((), device=target.device)
    for axis in (2, 3, 4):
        size = target.shape[axis]
        voxels = torch.full((size,), 1.0, device=target.device)
        total = count.clone()
        for step in range(1, min(kernel_size // 2, size - 1) + 1):
            rest = size - step
            total.narrow(axis, 0, rest).add_(count.narrow(axis, step, rest))
            total.narrow(axis, step, rest).add_(count.narrow(axis, 0, rest))
            voxels[:rest] += 1
            voxels[step:] += 1
        count = total
        inside = inside * voxels.view([-1 if other == axis else 1 for other in range(5)])
    return count / inside


def local_imbalance_weight(
    target: torch.Tensor, *, exponent: float | torch.Tensor, kernel_size: int = 7, floor: float = 0.05
) -> torch.Tensor:
    """Compute w_p = (1 - floor) min(-log10 FR_p, 1)^exponent + floor on the foreground, 1 on the background.

    Args:
        target: g in {0, 1}, (B, 1, Z, Y, X).
        exponent: r; a number, or one for each patch as a tensor (B, 1, 1, 1, 1).
        kernel_size: edge in voxels of the cube in which the foreground rate FR_p is taken, odd.
        floor: lambda, the weight of a voxel deep inside a large airway.

    Returns:
        Same shape, float32.

    Raises:
        ValueError: an even kernel size.

    Source: Tang 2022, eqs. 1 and 3; the background weighs 1 as in the entry's public code.
    """
    rate = local_foreground_rate(target, kernel_size=kernel_size).clamp_min_(1 / (2 * kernel_size**3))
    imbalance = rate.log10_().neg_().clamp_(0, 1)
    return torch.where(target > 0, (1 - floor) * imbalance**exponent + floor, 1.0)


def centerline_distance_weight(target: torch.Tensor, closeness: torch.Tensor) -> torch.Tensor:
    """Compute w_d = (1 - d / d_max)^2 on the foreground, 0 on the background.

    Args:
        target: g in {0, 1}, (B, 1, Z, Y, X).
        closeness: 1 - d / d_max, same shape, in [0, 1]: d is the distance to the nearest centerline voxel in mm,
            d_max its maximum over the airways of the whole case.

    Returns:
        Same shape as ``closeness`` and of its type.

    Source: Tang 2022, eq. 4.
    """
    return torch.where(target > 0, closeness**2, 0.0)


def thin_airway_weight(target: torch.Tensor, *, thick: int = 3, apart: int = 1) -> torch.Tensor:
    """Weigh thick airways and what lies around them 0, all else 1.

    Args:
        target: g in {0, 1}, (B, 1, Z, Y, X).
        thick: an airway is thick where a cube of so many voxels, an odd number, fits into it; it may reach out of the
            patch.
        apart: voxels around thick airways that weigh 0, too.

    Returns:
        Same shape, float32.

    Raises:
        ValueError: an even ``thick``.

    In no paper.
    """
    if thick % 2 == 0:
        raise ValueError(f"thick: an odd number of voxels is needed, got {thick}")
    thin = _most_in_cube((target <= 0).float(), thick)
    return 1 - _most_in_cube(1 - thin, thick + 2 * apart)


def distance_decay_weight(
    target: torch.Tensor, closeness: torch.Tensor, *, alpha: float, exponent: float = 0.5
) -> torch.Tensor:
    """Compute w = 1 - m (d / d_max)^exponent on the foreground, 1 on the background; m = min((1 - alpha) / alpha, 1).

    Args:
        target: g in {0, 1}, (B, 1, Z, Y, X).
        closeness: 1 - d / d_max, same shape, as in ``centerline_distance_weight``.
        alpha: share of the prediction in the denominator of the loss, in (0, 1].
        exponent: r_d; below 1 the weight falls fastest beside the centerline.

    Returns:
        Same shape as ``closeness`` and of its type, in [0, 1].

    Source: Zheng 2021, eq. 15. The paper's m = (1 - alpha) / alpha exceeds 1 for alpha < 1/2 and would make weights
    negative away from the centerline; capped at 1 they end at 0, as in other public implementations.
    """
    depth = min((1 - alpha) / alpha, 1)
    return torch.where(target > 0, 1 - depth * (1 - closeness) ** exponent, 1.0)


def inverse_component_weight(
    components: torch.Tensor, *, minimum: float = 1.0, maximum: float = 2e5, dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    """Compute w = N / ((K + 1) S), clipped: each of K components and the background weighs as much as any other.

    Args:
        components: (B, 1, Z, Y, X), number of each voxel's component in any integer or floating type, 0 for the
            background. Numbers need not be consecutive. Voxels below 0 are left out: they count nowhere and weigh 0.
        minimum: to which lower weights are raised.
        maximum: to which higher weights are lowered, such as that of a component of which the patch holds one voxel.
        dtype: of the result.

    Returns:
        Same shape. In each patch N is the number of its voxels, K that of the components in it, and S the
        number of voxels in the patch of the voxel's own component, or of the background. A patch without background
        has K instead of K + 1.

    Source: Shirokikh 2020; the clipping is that of the public code.

    Of 12 voxels, 8 are background, 3 one component and 1 another; each of the three weighs 4 in all:

    >>> components = torch.tensor([0] * 8 + [1] * 3 + [2]).view(1, 1, 1, 1, 12)
    >>> inverse_component_weight(components, minimum=0).flatten()[[0, 8, 11]]
    tensor([0.5000, 1.3333, 4.0000], dtype=torch.float64)
    """
    weights = []
    for patch in components:  # one after the other: the indices take more memory than anything else in the loss
        numbers = patch.long().clamp_min(-1) + 1  # 0: left out
        sizes = torch.bincount(numbers.flatten(), minlength=1).cpu().double()  # not every device has float64
        sizes[0] = 0
        each = sizes.sum() / ((sizes > 0).sum() * sizes)
        each = each.clamp(minimum, maximum).to(dtype)
        each[0] = 0
        weights.append(each.to(numbers.device)[numbers])
    return torch.stack(weights)
