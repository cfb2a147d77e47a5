import json
import subprocess
import sys

import pytest
import torch.distributed as dist

from nnunetv2_airway.training.ranks import all_gather, barrier, rank, shard

CASES = ["a", "b", "c", "d", "e"]


def test_one_process_is_all_there_is():
    assert rank() == 0 and all_gather("x") == ["x"] and shard(CASES) == CASES
    barrier()


def one_of(number: int, ranks: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=number, world_size=ranks)
    # another training may finish cases between the ranks' looks at the disk: the first rank's list counts
    shares = [shard(CASES[number:]), shard(CASES[:1])]
    barrier()
    print(json.dumps({"rank": rank(), "all": all_gather(number * 10), "shares": shares}))
    dist.destroy_process_group()


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_ranks_share_the_first_one_s_list_also_when_there_is_less_than_one_item_each(ranks, tmp_path):
    line = [sys.executable, __file__]
    processes = [
        subprocess.Popen([*line, str(number), str(ranks), str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for number in range(ranks)
    ]
    said = [json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in processes]
    assert [one["rank"] for one in said] == list(range(ranks))
    assert all(one["all"] == [10 * number for number in range(ranks)] for one in said)
    assert [one["shares"][0] for one in said] == [CASES[number::ranks] for number in range(ranks)]
    assert [one["shares"][1] for one in said] == [["a"]] + [[]] * (ranks - 1)


if __name__ == "__main__":  # one rank, started by the test above
    one_of(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
