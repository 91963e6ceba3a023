"""One thread for torch: the models are tiny, and threads of parallel test processes would fight."""

import torch

torch.set_num_threads(1)
