import torch

from train.muon import Muon, hidden_matrices, orthogonalise


def test_orthogonalise_keeps_directions_and_levels_lengths() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((32, 32), (24, 80), (80, 24)):
        matrix = torch.randn(shape, generator=generator)
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        result = orthogonalise(matrix)
        lengths = (u.T @ result @ v.T).diag()
        # A square matrix has some very small singular values, which five iterations leave behind.
        assert lengths.max() < 1.25
        assert lengths.median() > 0.65
        assert torch.allclose(result, u @ torch.diag(lengths) @ v, atol=1e-3)


def test_only_hidden_matrices_are_orthogonalised() -> None:
    network = torch.nn.ModuleDict(
        {
            "embedding": torch.nn.Embedding(100, 32),
            "to_latent": torch.nn.Conv2d(32, 4, 1),
            "hidden": torch.nn.Linear(32, 32),
            "convolution": torch.nn.Conv2d(32, 64, 3),
            "norm": torch.nn.LayerNorm(32),
        }
    )
    found = hidden_matrices(network)
    assert [tuple(matrix.shape) for matrix in found] == [(32, 32), (64, 32, 3, 3)]
    groups = Muon(network, 0.1).param_groups
    number = sum(len(group["params"]) for group in groups)
    assert number == len(list(network.parameters()))


def test_other_parameters_follow_adamw() -> None:
    networks = [torch.nn.Linear(4, 4) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    ours = Muon(networks[0], 0.1, betas=(0.9, 0.99), weight_decay=0.1)
    theirs = torch.optim.AdamW(networks[1].parameters(), 0.1, betas=(0.9, 0.99), weight_decay=0.1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        x = torch.randn(8, 4, generator=generator)
        for network, optimizer in zip(networks, (ours, theirs), strict=True):
            optimizer.zero_grad()
            (network(x) ** 2).mean().backward()
            optimizer.step()
    assert torch.allclose(networks[0].weight, networks[1].weight, atol=1e-6)
