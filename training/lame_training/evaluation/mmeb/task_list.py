"""Lists the 78 tasks of MMEB-V2: names, parts, metrics, pools, and where their rows lie.

Source: `experiments/report_score_v2.py`, `experiments/public/eval/{image,video,visdoc}.yaml`,
`src/constant/dataset_hf_path.py` and `dataset_hflocal_path.py` of TIGER-AI-Lab/VLM2Vec. The 24
visual-document tasks are those of the leaderboard, which takes four tasks of ViDoRe 2: the
human-labeled one and the three multilingual ones.

Two conventions exist for the two page-level tasks. In the first release their relevant pages were
numbered wrongly (VLM2Vec, issue 167); since November 2025 the leaderboard counts the data sets
`…-page-fixed`. Figures of the two conventions are never put together: the corrected tasks carry the
leaderboard's names, which end in `-fixed`, and a report names its convention.
"""

from __future__ import annotations

from lame_runtime.errors import UsageError

from lame_training.evaluation.suites.suite import PoolScope, TaskSpec

CONVENTIONS = ("page-fixed", "page-original")
"""Names of the conventions for page-level tasks; the first is the leaderboard's."""

# "i2i_vg" is picture to picture and visual grounding, "t2i" text to picture, "i2t" the reverse.
# The reader decides what candidates are and how they are named; see `image_tasks`.
IMAGE = {
    "image_cls": (
        "ImageNet-1K N24News HatefulMemes VOC2007 SUN397 Place365 ImageNet-A ImageNet-R ObjectNet "
        "Country211"
    ),
    "image_qa": (
        "OK-VQA A-OKVQA DocVQA InfographicsVQA ChartQA Visual7W ScienceQA VizWiz GQA TextVQA"
    ),
    "image_i2t": "MSCOCO_i2t VisualNews_i2t",
    "image_t2i": "VisDial MSCOCO_t2i VisualNews_t2i WebQA EDIS Wiki-SS-NQ",
    "image_i2i_vg": "CIRR NIGHTS OVEN FashionIQ MSCOCO RefCOCO RefCOCO-Matching Visual7W-Pointing",
}
"""Task names, separated by spaces, by the reader that parses their rows."""

# Most classification tasks rank all classes. SmthSmthV2 is published as multiple choice, with a
# pool per row, so it has a reader of its own.
VIDEO: tuple[tuple[str, str, PoolScope, str], ...] = (
    ("K700", "video_cls", "global", "k700"),
    ("SmthSmthV2", "video_choice", "local", "ssv2"),
    ("HMDB51", "video_cls", "global", "hmdb51"),
    ("UCF101", "video_cls", "global", "ucf101"),
    ("Breakfast", "video_cls", "global", "breakfast"),
    ("DiDeMo", "video_ret", "global", "didemo"),
    ("MSR-VTT", "video_ret", "global", "msr-vtt"),
    ("MSVD", "video_ret", "global", "msvd"),
    ("VATEX", "video_ret", "global", "vatex"),
    ("YouCook2", "video_ret", "global", "youcook2-val"),
    ("QVHighlight", "video_moment", "local", "qvhighlight"),
    ("Charades-STA", "video_moment", "local", "charades_sta"),
    ("MomentSeeker", "video_seeker", "local", "momentseeker_1k6"),
    ("MVBench", "video_qa", "local", "mvbench"),
    ("Video-MME", "video_qa", "local", "video-mme"),
    ("NExTQA", "video_qa", "local", "nextqa"),
    ("EgoSchema", "video_qa", "local", "egoschema"),
    ("ActivityNetQA", "video_qa", "local", "activitynetqa"),
)
"""Task name, reader, pool scope, and the table of rows below `video-tasks/data/`."""

# "multilingual" stands for all queries of a folder. VLM2Vec also has tasks with the English ones
# alone, which the leaderboard does not count.
VISDOC = {
    "ViDoRe_arxivqa": "arxivqa_test_subsampled_beir",
    "ViDoRe_docvqa": "docvqa_test_subsampled_beir",
    "ViDoRe_infovqa": "infovqa_test_subsampled_beir",
    "ViDoRe_tabfquad": "tabfquad_test_subsampled_beir",
    "ViDoRe_tatdqa": "tatdqa_test_beir",
    "ViDoRe_shiftproject": "shiftproject_test_beir",
    "ViDoRe_syntheticDocQA_artificial_intelligence": (
        "syntheticDocQA_artificial_intelligence_test_beir"
    ),
    "ViDoRe_syntheticDocQA_energy": "syntheticDocQA_energy_test_beir",
    "ViDoRe_syntheticDocQA_government_reports": "syntheticDocQA_government_reports_test_beir",
    "ViDoRe_syntheticDocQA_healthcare_industry": "syntheticDocQA_healthcare_industry_test_beir",
    "ViDoRe_esg_reports_human_labeled_v2": "esg_reports_human_labeled_v2",
    "ViDoRe_biomedical_lectures_v2_multilingual": "biomedical_lectures_v2",
    "ViDoRe_economics_reports_v2_multilingual": "economics_reports_v2",
    "ViDoRe_esg_reports_v2_multilingual": "esg_reports_v2",
    "VisRAG_ArxivQA": "VisRAG-Ret-Test-ArxivQA",
    "VisRAG_ChartQA": "VisRAG-Ret-Test-ChartQA",
    "VisRAG_MP-DocVQA": "VisRAG-Ret-Test-MP-DocVQA",
    "VisRAG_SlideVQA": "VisRAG-Ret-Test-SlideVQA",
    "VisRAG_InfoVQA": "VisRAG-Ret-Test-InfoVQA",
    "VisRAG_PlotQA": "VisRAG-Ret-Test-PlotQA",
    "ViDoSeek-doc": "ViDoSeek",
    "MMLongBench-doc": "MMLongBench-doc",
}
"""Folder below `visdoc-tasks/data/` by task name, without the two page-level tasks."""

# The folder `MMLongBench`, without a suffix, is the page-level data set with wrong numbers.
PAGES = {
    "page-fixed": {
        "ViDoSeek-page-fixed": "ViDoSeek-page-fixed",
        "MMLongBench-page-fixed": "MMLongBench-page-fixed",
    },
    "page-original": {"ViDoSeek-page": "ViDoSeek-page", "MMLongBench-page": "MMLongBench"},
}
"""Folder below `visdoc-tasks/data/` of the two page-level tasks, by convention and task name."""


def mmeb_specs(convention: str) -> tuple[TaskSpec, ...]:
    """Returns all 78 tasks under one of `CONVENTIONS`; raises `UsageError` for any other name."""
    if convention not in CONVENTIONS:
        raise UsageError(f"`convention` is {convention!r}: use one of {', '.join(CONVENTIONS)}")
    # Metrics are those of the leaderboard: hit@1 for images and videos, and nDCG@5 for documents,
    # where a query may have several relevant pages of different grades.
    images = [
        TaskSpec(
            name,
            "image",
            metric="hit@1",
            pool_scope="local",
            reader=reader,
            documents_are_labels=reader == "image_cls",
        )
        for reader, names in IMAGE.items()
        for name in names.split()
    ]
    videos = [
        TaskSpec(
            name,
            "video",
            metric="hit@1",
            pool_scope=pool_scope,
            reader=reader,
            source=table,
            documents_are_labels=reader == "video_cls",
        )
        for name, reader, pool_scope, table in VIDEO
    ]
    documents = [
        TaskSpec(
            name,
            "visdoc",
            metric="ndcg_linear@5",
            pool_scope="global",
            reader="visdoc",
            source=folder,
        )
        for name, folder in {**VISDOC, **PAGES[convention]}.items()
    ]
    return (*images, *videos, *documents)
