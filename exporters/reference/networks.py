"""
The reference networks: a VB-Net that names the tissues of a spine, a DenseNet that reads a crop, a ResNet50
that reads a picture from the side.

All use batch normalisation. In the VB-Net it always follows a convolution, so that it vanishes into the
weights at export.

Source:
    V-Net: Milletari et al., 3DV 2016. Bottleneck blocks of three convolutions in its place (VB-Net) and a
    3-D DenseNet regressor on the original image around the eroded vertebra: Peng et al., Osteoporos Int 34 (2023).
    ResNet50 on a sagittal picture: Yoshida et al., J Comput Assist Tomogr 47 (2023); its blocks are MONAI's.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from exporters.reference.recipe import NetworkRecipe, Recipe


def _convolution(channels: int, into: int, kernel: int, stride: int = 1, act: bool = True) -> nn.Sequential:
    parts: list[nn.Module] = [
        nn.Conv3d(channels, into, kernel, stride, padding=kernel // 2 if stride == 1 else 0, bias=False),
        nn.BatchNorm3d(into),
    ]
    if act:
        parts.append(nn.ReLU(inplace=True))
    return nn.Sequential(*parts)


class Bottleneck(nn.Module):  # type: ignore[misc]
    """Three convolutions with fewer channels between, and a way around them."""

    def __init__(self, channels: int) -> None:
        """Halve the channels inside."""
        super().__init__()
        inner = max(4, channels // 2)
        self.inside = nn.Sequential(
            _convolution(channels, inner, 1), _convolution(inner, inner, 3), _convolution(inner, channels, 1, act=False)
        )
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, K, J, I) to the same shape."""
        y: Tensor = self.act(x + self.inside(x))
        return y


class VBNet(nn.Module):  # type: ignore[misc]
    """(N, 1, K, J, I) to logits (N, classes, K, J, I); edges in multiples of 2 ** (stages - 1)."""

    def __init__(self, recipe: NetworkRecipe, classes: int) -> None:
        """One width a stage; each stage halves the edges."""
        super().__init__()
        widths = recipe.widths
        self.stem = _convolution(1, widths[0], 3)
        self.stages = nn.ModuleList([nn.Sequential(*[Bottleneck(widths[0]) for _ in range(recipe.blocks[0])])])
        self.downs, self.ups, self.joins = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for above, below, count in zip(widths[:-1], widths[1:], recipe.blocks[1:], strict=True):
            self.downs.append(_convolution(above, below, 2, stride=2))
            self.stages.append(nn.Sequential(*[Bottleneck(below) for _ in range(count)]))
        for below, above in zip(widths[:0:-1], widths[-2::-1], strict=True):
            up = nn.ConvTranspose3d(below, above, 2, 2, bias=False)
            self.ups.append(nn.Sequential(up, nn.BatchNorm3d(above), nn.ReLU(inplace=True)))
            self.joins.append(_convolution(2 * above, above, 3))
        self.head = nn.Conv3d(widths[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of every voxel."""
        x = self.stages[0](self.stem(x))
        kept = [x]
        for down, stage in zip(self.downs, list(self.stages)[1:], strict=True):
            x = stage(down(x))
            kept.append(x)
        kept.pop()
        for up, join in zip(self.ups, self.joins, strict=True):
            x = join(torch.cat([up(x), kept.pop()], dim=1))
        logits: Tensor = self.head(x)
        return logits


class DenseLayer(nn.Module):  # type: ignore[misc]
    """Adds `growth` channels, read through a bottleneck of four times as many."""

    def __init__(self, channels: int, growth: int) -> None:
        """Norm before convolution, as DenseNet has it."""
        super().__init__()
        self.inside = nn.Sequential(
            nn.BatchNorm3d(channels), nn.ReLU(), nn.Conv3d(channels, 4 * growth, 1, bias=False),
            nn.BatchNorm3d(4 * growth), nn.ReLU(), nn.Conv3d(4 * growth, growth, 3, padding=1, bias=False),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) to (N, C + growth, ...)."""
        return torch.cat([x, self.inside(x)], dim=1)


class Smooth(nn.Module):  # type: ignore[misc]
    """A Gaussian over a crop. Nothing is learnt.

    Interpolation between a CT's voxels blurs more or less, as the crop's grid happens to lie among them; behind a blur
    that is the same for all, a shift by a part of a voxel changes little.
    """

    def __init__(self, sigma: float) -> None:
        """The SD in voxels; beyond the crop its border is continued."""
        super().__init__()
        self.reach = math.ceil(3 * sigma)
        away = torch.arange(-self.reach, self.reach + 1, dtype=torch.float32)
        line = torch.exp(-0.5 * (away / sigma) ** 2)
        self.register_buffer("line", line / line.sum(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, K, J, I) to the same shape."""
        x = functional.pad(x, [self.reach] * 6, mode="replicate")
        for shape in ((-1, 1, 1), (1, -1, 1), (1, 1, -1)):
            x = functional.conv3d(x, self.line.reshape(1, 1, *shape))
        return x


class DenseNet3d(nn.Module):  # type: ignore[misc]
    """(N, 1, K, J, I) to (N, outputs): the density, scaled as the manifest says, or the classes' logits."""

    def __init__(self, recipe: NetworkRecipe, outputs: int = 1) -> None:
        """Blocks of dense layers; between them half the channels at half the edge."""
        super().__init__()
        channels = recipe.widths[0]
        self.smooth = Smooth(recipe.smooth) if recipe.smooth else nn.Identity()
        parts: list[nn.Module] = [_convolution(1, channels, 2, stride=2)]
        for stage, count in enumerate(recipe.blocks):
            for _ in range(count):
                parts.append(DenseLayer(channels, recipe.growth))
                channels += recipe.growth
            if stage < len(recipe.blocks) - 1:
                parts += [
                    nn.BatchNorm3d(channels),
                    nn.ReLU(),
                    nn.Conv3d(channels, channels // 2, 1, bias=False),
                    nn.AvgPool3d(2),
                ]
                channels //= 2
        parts += [nn.BatchNorm3d(channels), nn.ReLU()]
        self.features = nn.Sequential(*parts)
        self.head = nn.Linear(channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """One number, or one for each class, a crop."""
        value: Tensor = self.head(self.features(self.smooth(x)).mean(dim=(2, 3, 4)))
        return value


class Grain(nn.Module):  # type: ignore[misc]
    """The grain of trabecular bone in a picture: bands of size, without cortex and background, and how strong they are.

    A texture of a few HU would drown among cortex of a thousand; here it is as large as anything else. Nothing is
    learnt. Strength is a mean of absolute values that a vein or a bone island can't run away with.
    """

    MIDDLE, HALF, EDGE, GRAIN_HU = 130.0, 200.0, 1.5, 10.0  # HU; the edge in halves: -170 .. 430 HU is trabecular bone
    MOST_HU, LEAST_HU = 6.0, 0.05  # of one pixel's grain; under the logarithm

    def __init__(self, recipe: NetworkRecipe, window: tuple[float, ...]) -> None:
        """The window is what -1..1 stands for, HU."""
        super().__init__()
        self.low, self.high = window
        row, column, self.rows, self.columns = recipe.grain_box
        self.row, self.column = row - recipe.crop[0], column - recipe.crop[1]
        self.reach = math.ceil(3 * max(recipe.bands))
        away = torch.arange(-self.reach, self.reach + 1, dtype=torch.float32)
        lines = torch.stack([torch.exp(-0.5 * (away / sigma) ** 2) for sigma in recipe.bands])
        planes = lines[:, :, None] * lines[:, None, :]
        self.register_buffer("kernels", (planes / planes.sum(dim=(1, 2), keepdim=True))[:, None])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 1, rows, columns) to channels (N, 1 + bands, rows, columns) and strengths (N, 3 + bands)."""
        hounsfield = (x + 1) * ((self.high - self.low) / 2) + self.low
        bands = self._bands(hounsfield)
        bone = ((hounsfield - self.MIDDLE) / self.HALF).clamp(-self.EDGE, self.EDGE)
        outside = (bone.abs() > self.EDGE - 0.1).to(bone.dtype)
        inside = 1 - functional.max_pool2d(outside, 5, stride=1, padding=2)
        channels = torch.cat([bone, (bands * inside / self.GRAIN_HU).clamp(-2, 2)], dim=1)
        here = self._box(hounsfield)
        steps = [self._strength(here.diff(dim=axis), 2 * self.MOST_HU) for axis in (2, 3)]
        level = here.mean(dim=(2, 3)) / 100
        return channels, torch.cat([level, self._strength(self._box(bands), self.MOST_HU), *steps], dim=1)

    def _bands(self, hounsfield: Tensor) -> Tensor:
        smooth = functional.conv2d(hounsfield, self.kernels, padding=self.reach)
        return torch.cat([hounsfield, smooth[:, :-1]], dim=1) - smooth

    def _box(self, x: Tensor) -> Tensor:
        return x[:, :, self.row : self.row + self.rows, self.column : self.column + self.columns]

    def _strength(self, x: Tensor, most: float) -> Tensor:
        return (x.abs().clamp(max=most).mean(dim=(2, 3)) + self.LEAST_HU).log()


class PictureResNet(nn.Module):  # type: ignore[misc]
    """(N, 1, 1, rows, columns) to one number (N, 1); of the picture only the part that a vertebra lies in is read.

    Where the recipe names bands, the ResNet sees the grain as channels beside the bone, and the last layer the grain's
    strengths and their products beside what the ResNet found.
    """

    FOUND = 16  # numbers that the ResNet hands to the last layer, where there is one

    def __init__(self, recipe: NetworkRecipe, window: tuple[float, ...]) -> None:
        """The first stage is as wide as the stem; each further one twice as wide."""
        super().__init__()
        from monai.networks.nets.resnet import ResNet

        self.crop, bands = recipe.crop, len(recipe.bands)
        widths = [recipe.widths[0] * 2**n for n in range(4)]
        self.inside = ResNet("bottleneck", list(recipe.blocks), widths, spatial_dims=2, n_input_channels=1 + bands,
                             num_classes=self.FOUND if bands else 1, conv1_t_size=7,
                             conv1_t_stride=recipe.stem_stride)  # fmt: skip
        self.grain = Grain(recipe, window) if bands else None
        if bands:
            count = 3 + bands
            self.register_buffer("pairs", torch.triu_indices(count, count))
            strengths = count + count * (count + 1) // 2
            self.even = nn.BatchNorm1d(strengths)
            self.head = nn.Linear(self.FOUND + strengths, 1)

    def forward(self, x: Tensor) -> Tensor:
        """One number a picture; training hands in (N, 1, rows, columns), cropped already."""
        if x.dim() == 5:
            row, column, rows, columns = self.crop
            x = x[:, :, 0, row : row + rows, column : column + columns]
        if self.grain is None:
            plain: Tensor = self.inside(x)
            return plain
        channels, strength = self.grain(x)
        strength = torch.cat([strength, strength[:, self.pairs[0]] * strength[:, self.pairs[1]]], dim=1)
        value: Tensor = self.head(torch.cat([self.inside(channels), self.even(strength)], dim=1))
        return value


class MeanOf(nn.Module):  # type: ignore[misc]
    """Several networks as one: the mean of their answers."""

    def __init__(self, networks: list[nn.Module]) -> None:
        """Keep them."""
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        """The mean."""
        return torch.stack([network(x) for network in self.networks]).mean(dim=0)


def build(recipe: Recipe) -> nn.Module:
    """The network of a recipe, with fresh weights."""
    if recipe.task == "spine_segmentation":
        return VBNet(recipe.network, len(recipe.manifest.labels))
    if recipe.manifest.cut:
        return PictureResNet(recipe.network, recipe.manifest.hounsfield_window)
    return DenseNet3d(recipe.network, len(recipe.manifest.labels) or 1)
