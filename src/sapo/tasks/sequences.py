"""Task orders by name: the published ones (SAPO, arXiv 2606.01967, on SuperNI and TRACE) and the demo's."""

SEQUENCES: dict[str, tuple[str, ...]] = {
    "demo": ("review-sentiment", "date-format", "odd-one-out"),
    "ni_seq_c1": (
        "task195_sentiment140_classification",
        "task1310_amazonreview_rating_classification",
        "task273_europarl_classification",
        "task611_mutual_multi_turn_dialogue",
        "task224_scruples_anecdotes_ethical_judgment",
    ),
    "ni_seq_g1": (
        "task589_amazonfood_summary_text_generation",
        "task141_odd-man-out_classification_category",
        "task618_amazonreview_summary_text_generation",
        "task339_record_answer_generation",
        "task360_spolin_yesand_response_generation",
    ),
    "ni_seq_m1": (
        "task195_sentiment140_classification",
        "task360_spolin_yesand_response_generation",
        "task611_mutual_multi_turn_dialogue",
        "task002_quoref_answer_generation",
        "task224_scruples_anecdotes_ethical_judgment",
    ),
    "trace": ("C-STANCE", "FOMC", "MeetingBank", "Py150", "ScienceQA", "NumGLUE-cm"),
}
