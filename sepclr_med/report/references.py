"""What is cited, by key; numbered on the page in the order in which the methods name it."""

from __future__ import annotations

REFERENCES: dict[str, tuple[str, str]] = {
    "sepclr": (
        "Louiset R, Duchesnay E, Grigis A, Gori P. Separating common from salient patterns with contrastive "
        "representation learning. International Conference on Learning Representations, 2024.",
        "https://arxiv.org/abs/2402.11928",
    ),
    "normative": (
        "Marquand AF, Rezek I, Buitelaar J, Beckmann CF. Understanding heterogeneity in clinical cohorts using "
        "normative models: beyond case-control studies. Biological Psychiatry 80:552-561, 2016.",
        "https://doi.org/10.1016/j.biopsych.2015.12.023",
    ),
    "ppca": (
        "Tipping ME, Bishop CM. Probabilistic principal component analysis. Journal of the Royal Statistical Society B "
        "61:611-622, 1999.",
        "https://doi.org/10.1111/1467-9868.00196",
    ),
    "leace": (
        "Belrose N, et al. LEACE: perfect linear concept erasure in closed form. Advances in Neural Information "
        "Processing Systems 36, 2023.",
        "https://arxiv.org/abs/2306.03819",
    ),
    "crossfit": (
        "Chernozhukov V, et al. Double/debiased machine learning for treatment and structural parameters. Econometrics "
        "Journal 21:C1-C68, 2018.",
        "https://doi.org/10.1111/ectj.12097",
    ),
    "procrustes": (
        "Schönemann PH. A generalized solution of the orthogonal Procrustes problem. Psychometrika 31:1-10, 1966.",
        "https://doi.org/10.1007/BF02289451",
    ),
    "icc": (
        "Shrout PE, Fleiss JL. Intraclass correlations: uses in assessing rater reliability. Psychological Bulletin "
        "86:420-428, 1979.",
        "https://doi.org/10.1037/0033-2909.86.2.420",
    ),
    "simclr": (
        "Chen T, Kornblith S, Norouzi M, Hinton G. A simple framework for contrastive learning of visual "
        "representations. International Conference on Machine Learning, 2020.",
        "https://arxiv.org/abs/2002.05709",
    ),
    "yaware": (
        "Dufumier B, et al. Contrastive learning with continuous proxy meta-data for 3D MRI classification. MICCAI, "
        "2021.",
        "https://arxiv.org/abs/2106.08808",
    ),
    "vae": (
        "Kingma DP, Welling M. Auto-encoding variational Bayes. International Conference on Learning Representations, "
        "2014.",
        "https://arxiv.org/abs/1312.6114",
    ),
    "cvae": (
        "Abid A, Zou J. Contrastive variational autoencoder enhances salient features. arXiv, 2019.",
        "https://arxiv.org/abs/1902.04601",
    ),
    "mmcvae": (
        "Weinberger E, Beebe-Wang N, Lee SI. Moment matching deep contrastive latent variable models. International "
        "Conference on Artificial Intelligence and Statistics, 2022.",
        "https://arxiv.org/abs/2202.10560",
    ),
    "sepvae": (
        "Louiset R, Duchesnay E, Grigis A, Dufumier B, Gori P. SepVAE: a contrastive VAE to separate pathological "
        "patterns from healthy ones. Medical Imaging with Deep Learning, 2024.",
        "https://arxiv.org/abs/2307.06206",
    ),
    "cpca": (
        "Abid A, Zhang MJ, Bagaria VK, Zou J. Exploring patterns enriched in a dataset with contrastive principal "
        "component analysis. Nature Communications 9:2134, 2018.",
        "https://doi.org/10.1038/s41467-018-04608-8",
    ),
    "pcpca": (
        "Li D, Jones A, Engelhardt B. Probabilistic contrastive principal component analysis. arXiv, 2020.",
        "https://arxiv.org/abs/2012.07977",
    ),
    "bids": (
        "Gorgolewski KJ, et al. The brain imaging data structure, a format for organizing and describing outputs of "
        "neuroimaging experiments. Scientific Data 3:160044, 2016.",
        "https://doi.org/10.1038/sdata.2016.44",
    ),
    "monai": (
        "Cardoso MJ, et al. MONAI: an open-source framework for deep learning in healthcare. arXiv, 2022.",
        "https://arxiv.org/abs/2211.02701",
    ),
    "pytorch": (
        "Paszke A, et al. PyTorch: an imperative style, high-performance deep learning library. Advances in Neural "
        "Information Processing Systems 32, 2019.",
        "https://arxiv.org/abs/1912.01703",
    ),
    "adamw": (
        "Loshchilov I, Hutter F. Decoupled weight decay regularization. International Conference on Learning "
        "Representations, 2019.",
        "https://arxiv.org/abs/1711.05101",
    ),
    "sklearn": (
        "Pedregosa F, et al. Scikit-learn: machine learning in Python. Journal of Machine Learning Research "
        "12:2825-2830, 2011.",
        "https://jmlr.org/papers/v12/pedregosa11a.html",
    ),
    "statsmodels": (
        "Seabold S, Perktold J. statsmodels: econometric and statistical modeling with Python. Proceedings of the 9th "
        "Python in Science Conference, 2010.",
        "",
    ),
    "nilearn": (
        "Abraham A, et al. Machine learning for neuroimaging with scikit-learn. Frontiers in Neuroinformatics "
        "8:14, 2014.",
        "https://doi.org/10.3389/fninf.2014.00014",
    ),
    "bootstrap": ("Efron B, Tibshirani RJ. An introduction to the bootstrap. Chapman & Hall, 1993.", ""),
    "dcor": (
        "Székely GJ, Rizzo ML, Bakirov NK. Measuring and testing dependence by correlation of distances. Annals of "
        "Statistics 35:2769-2794, 2007.",
        "https://doi.org/10.1214/009053607000000505",
    ),
    "hsic": (
        "Gretton A, et al. A kernel statistical test of independence. Advances in Neural Information Processing "
        "Systems 20, 2008.",
        "",
    ),
    "dersimonian": (
        "DerSimonian R, Laird N. Meta-analysis in clinical trials. Controlled Clinical Trials 7:177-188, 1986.",
        "https://doi.org/10.1016/0197-2456(86)90046-2",
    ),
    "freedman": (
        "Freedman D, Lane D. A nonstochastic interpretation of reported significance levels. Journal of Business & "
        "Economic Statistics 1:292-298, 1983.",
        "https://doi.org/10.1080/07350015.1983.10509354",
    ),
    "winkler2014": (
        "Winkler AM, Ridgway GR, Webster MA, Smith SM, Nichols TE. Permutation inference for the general linear model. "
        "NeuroImage 92:381-397, 2014.",
        "https://doi.org/10.1016/j.neuroimage.2014.01.060",
    ),
    "winkler2015": (
        "Winkler AM, Webster MA, Vidaurre D, Nichols TE, Smith SM. Multi-level block permutation. NeuroImage "
        "123:253-268, 2015.",
        "https://doi.org/10.1016/j.neuroimage.2015.05.092",
    ),
    "phipson": (
        "Phipson B, Smyth GK. Permutation p-values should never be zero: calculating exact p-values when permutations "
        "are randomly drawn. Statistical Applications in Genetics and Molecular Biology 9:39, 2010.",
        "https://doi.org/10.2202/1544-6115.1585",
    ),
    "westfall": ("Westfall PH, Young SS. Resampling-based multiple testing. Wiley, 1993.", ""),
    "fdr": (
        "Benjamini Y, Hochberg Y. Controlling the false discovery rate: a practical and powerful approach to multiple "
        "testing. Journal of the Royal Statistical Society B 57:289-300, 1995.",
        "https://doi.org/10.1111/j.2517-6161.1995.tb02031.x",
    ),
    "families": (
        "Benjamini Y, Bogomolov M. Selective inference on multiple families of hypotheses. Journal of the Royal "
        "Statistical Society B 76:297-318, 2014.",
        "https://doi.org/10.1111/rssb.12028",
    ),
    "psr": (
        "Li C, Shepherd BE. A new residual for ordinal outcomes. Biometrika 99:473-480, 2012.",
        "https://doi.org/10.1093/biomet/asr073",
    ),
    "liu": (
        "Liu Q, Li C, Wanga V, Shepherd BE. Covariate-adjusted Spearman's rank correlation with probability-scale "
        "residuals. Biometrics 74:595-605, 2018.",
        "https://doi.org/10.1111/biom.12812",
    ),
    "huber": ("Huber PJ. Robust statistics. Wiley, 1981.", ""),
    "hksj": (
        "IntHout J, Ioannidis JPA, Borm GF. The Hartung-Knapp-Sidik-Jonkman method for random effects meta-analysis is "
        "straightforward and considerably outperforms the standard DerSimonian-Laird method. BMC Medical Research "
        "Methodology 14:25, 2014.",
        "https://doi.org/10.1186/1471-2288-14-25",
    ),
    "rsa": (
        "Kriegeskorte N, Mur M, Bandettini P. Representational similarity analysis: connecting the branches of systems "
        "neuroscience. Frontiers in Systems Neuroscience 2:4, 2008.",
        "https://doi.org/10.3389/neuro.06.004.2008",
    ),
    "mantel": (
        "Mantel N. The detection of disease clustering and a generalized regression approach. Cancer Research "
        "27:209-220, 1967.",
        "",
    ),
    "aglinskas": (
        "Aglinskas A, Hartshorne JK, Anzellotti S. Contrastive machine learning reveals the structure of "
        "neuroanatomical variation within autism. Science 376:1070-1074, 2022.",
        "https://doi.org/10.1126/science.abm2461",
    ),
    "bic": ("Schwarz G. Estimating the dimension of a model. Annals of Statistics 6:461-464, 1978.", ""),
    "silhouette": (
        "Rousseeuw PJ. Silhouettes: a graphical aid to the interpretation and validation of cluster analysis. Journal "
        "of Computational and Applied Mathematics 20:53-65, 1987.",
        "https://doi.org/10.1016/0377-0427(87)90125-7",
    ),
    "ari": (
        "Hubert L, Arabie P. Comparing partitions. Journal of Classification 2:193-218, 1985.",
        "https://doi.org/10.1007/BF01908075",
    ),
    "varimax": (
        "Kaiser HF. The varimax criterion for analytic rotation in factor analysis. Psychometrika 23:187-200, 1958.",
        "https://doi.org/10.1007/BF02289233",
    ),
    "maxt": (
        "Nichols TE, Holmes AP. Nonparametric permutation tests for functional neuroimaging: a primer with examples. "
        "Human Brain Mapping 15:1-25, 2002.",
        "https://doi.org/10.1002/hbm.1058",
    ),
    "tfce": (
        "Smith SM, Nichols TE. Threshold-free cluster enhancement: addressing problems of smoothing, threshold "
        "dependence and localisation in cluster inference. NeuroImage 44:83-98, 2009.",
        "https://doi.org/10.1016/j.neuroimage.2008.03.061",
    ),
    "ig": (
        "Sundararajan M, Taly A, Yan Q. Axiomatic attribution for deep networks. International Conference on Machine "
        "Learning, 2017.",
        "https://arxiv.org/abs/1703.01365",
    ),
    "occlusion": (
        "Zeiler MD, Fergus R. Visualizing and understanding convolutional networks. European Conference on Computer "
        "Vision, 2014.",
        "https://arxiv.org/abs/1311.2901",
    ),
    "sanity": (
        "Adebayo J, et al. Sanity checks for saliency maps. Advances in Neural Information Processing Systems "
        "31, 2018.",
        "https://arxiv.org/abs/1810.03292",
    ),
}
